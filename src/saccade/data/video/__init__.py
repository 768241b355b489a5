"""Films and pictures: exact frames out of video files, JPEG and PNG; folders of plain videos."""
