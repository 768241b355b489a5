"""The gates of a release: a fault, what a user then sees, and the tests that hold us to it.

A test is ``FILE::NAME`` below ``tests/``; all its cases count. The ordinary suite runs the same
tests, those of this folder with few tries.
"""

from typing import NamedTuple


class Gate(NamedTuple):
    """One line of the score."""

    name: str
    fault: str
    seen: str
    tests: tuple[str, ...]


GATES = (
    Gate(
        "R1",
        "SIGKILL at any time: in a step, a wait, a save, an evaluation, an export",
        "resumed from step 37 of 60 (sha256 ab12cd34), 23 samples into epoch 2",
        (
            "faults/test_kills.py::test_kills_lose_nothing",
            "faults/test_kills.py::test_kills_of_the_command_line_lose_nothing",
            "train/test_engine.py::test_kills_leave_no_trace",
            "experiments/test_training.py::test_a_run_that_was_stopped_and_resumed_equals_the_whole",
            "objectives/test_temporal_jepa_runs.py",
        ),
    ),
    Gate(
        "R2",
        "a resume in the middle of an epoch",
        "nothing: every sample of an epoch comes once",
        (
            "data/test_loader.py::test_every_sample_of_an_epoch_comes_once",
            "data/test_loader.py::test_resuming_is_starting_at_another_step",
            "data/test_windows.py::test_a_plan_is_a_function_of_seed_and_epoch",
        ),
    ),
    Gate(
        "R3",
        "a resume with other workers, or reading further ahead",
        "nothing: batches are the same bits",
        (
            "data/test_loader.py::test_workers_do_not_change_anything",
            "data/test_loader.py::test_reading_further_ahead_changes_nothing",
            "data/test_transforms.py::test_crops_cover_the_frame_and_follow_the_key",
        ),
    ),
    Gate(
        "R4",
        "a resume with another number of ranks, or another layout",
        "world size 1 -> 4: the order of samples is kept; sums may round differently",
        (
            "train/test_layout.py::test_a_run_goes_on_with_other_numbers_of_ranks_and_layouts",
            "train/test_layout.py::test_several_ranks_train_like_one",
            "data/test_loader.py::test_ranks_share_each_batch",
            "experiments/test_every_recipe.py",
        ),
    ),
    Gate(
        "R6",
        "the same seed again; another machine",
        "nothing: the same bits; elsewhere the written losses within rounding",
        (
            "faults/test_determinism.py",
            "train/test_step.py::test_accumulation_equals_the_whole_batch",
            "train/test_engine.py::test_noise_does_not_depend_on_what_else_draws_numbers",
        ),
    ),
    Gate(
        "R7",
        "a resume with other settings, data, camera or versions",
        "a table: key, saved, now; --allow-change KEY",
        (
            "train/test_engine.py::test_another_config_is_refused_and_changes_nothing",
            "train/test_checkpoint.py::test_another_experiment_is_refused_with_a_table",
            "train/test_config.py::test_a_resume_may_change_how_but_not_what_is_computed",
            "experiments/test_training.py::test_a_refused_run_changes_nothing",
        ),
    ),
    Gate(
        "R8",
        "NaN or infinity in a loss, a gradient, one rank, an evaluation; a leap of the loss",
        "step 812 has loss nan ...; first not finite: output of head; episodes in the batch: ...",
        (
            "train/test_trouble.py",
            "train/test_step.py::test_a_nan_stops_before_the_update",
            "train/test_step.py::test_a_gradient_that_is_not_finite_is_named",
            "train/test_step.py::test_an_overflow_of_float16_is_no_trouble_until_it_never_ends",
            "train/test_distributed.py::test_a_nan_on_one_rank_stops_all",
            "train/test_evaluate.py::test_a_score_that_is_not_finite_stops_the_run",
        ),
    ),
    Gate(
        "R10",
        "SIGTERM, SIGINT, SIGUSR1 in every phase, alone and under torchrun; a second signal",
        "SIGTERM came; 41 of 60 steps are done and saved in runs/a; resume to go on",
        (
            "faults/test_kills.py::test_a_signal_at_any_point_saves_and_the_end_is_the_same",
            "train/test_engine.py::test_a_signal_saves_first_and_the_resumed_run_equals_the_whole",
            "train/test_engine.py::test_a_signal_that_ends_the_loader_too_still_saves",
            "train/test_engine.py::test_a_second_signal_ends_at_once",
            "train/test_layout.py::test_a_run_goes_on_with_other_numbers_of_ranks_and_layouts",
            "test_cli.py::test_a_run_that_was_told_to_stop_is_resumed_without_a_trace",
        ),
    ),
    Gate(
        "R11",
        "a worker is killed, fails or hangs; HDF5 is open while processes fork",
        "worker 1 (pid 4242) was ended by SIGKILL while episodes [3, 7] were read; ...",
        (
            "data/test_loader.py::test_a_worker_that_is_gone_is_told_and_none_is_left",
            "data/files/test_hdf5.py::test_other_processes_open_their_own",
            "data/video/test_film.py::test_threads_and_forks_do_not_share_a_decoder",
        ),
    ),
    Gate(
        "R14",
        "two runs in one folder; a lock whose owner was killed; a look during a write",
        "runs/a is in use by pid 4242 on host a since 10:02; ...",
        (
            "train/test_engine.py::test_a_busy_folder_is_refused_and_its_owner_unharmed",
            "train/test_checkpoint.py::test_who_holds_a_folder_may_hold_it_again",
            "train/test_runs.py::test_looking_at_a_run_does_not_disturb_it",
            "experiments/test_training.py::test_a_busy_folder_keeps_the_settings_of_its_owner",
        ),
    ),
    Gate(
        "C1",
        "SIGKILL at every named point of a save, and at random times",
        "ignored incomplete step-00000120.tmp-4242",
        (
            "faults/test_kills.py::test_kills_lose_nothing",
            "train/test_engine.py::test_kills_leave_no_trace",
            "train/test_checkpoint.py::test_an_unfinished_checkpoint_is_ignored_and_removed",
        ),
    ),
    Gate(
        "C2",
        "a disk that is full, over quota, failing, read only; a limit on the size of files",
        "a checkpoint needs 3100.0 MB, 400.0 MB are free in ...; free some space and resume",
        (
            "faults/test_disk.py",
            "train/test_checkpoint.py::test_a_full_disk_keeps_the_older_checkpoint",
            "train/test_checkpoint.py::test_free_space_is_looked_at_before_writing",
            "train/test_saver.py::test_a_full_disk_is_told_before_the_next_checkpoint",
            "train/test_log.py::test_a_full_disk_is_named",
        ),
    ),
    Gate(
        "C3",
        "1000 flipped bits, 100 cuts, exchanged files",
        "objective.safetensors is damaged in bytes 0-4194303: sha256 ...; using step-00000100",
        (
            "faults/test_bits.py",
            "train/test_checkpoint.py::test_every_flipped_bit_and_every_cut_is_found",
            "train/test_checkpoint.py::test_files_of_another_step_are_found",
            "train/test_checkpoint.py::test_damage_is_told_with_its_place",
            "train/test_engine.py::test_damage_is_told_and_the_older_checkpoint_used_if_it_may",
        ),
    ),
    Gate(
        "C4",
        "weights that are missing, left over, prefixed, transposed, of another size",
        "file does not fit Net: 2 missing: a, b; 1 of another shape: c (3, 2) should be (2, 3)",
        (
            "faults/test_hostile.py::test_weights_fit_or_nothing_is_loaded",
            "faults/test_hostile.py::test_a_checkpoint_of_other_networks_is_refused_whole",
            "test_checkpoint.py::test_every_key_is_accounted_for",
            "train/test_optim.py::test_moments_that_do_not_fit_are_refused",
            "models/published/test_official.py::test_every_weight_is_accounted_for",
            "models/published/test_vision.py::test_every_weight_is_accounted_for",
        ),
    ),
    Gate(
        "C5",
        "pickles that run a command, in weights, checkpoints, data sets and arrays",
        "a.pt holds a posix.system beside its tensors, which only running its code could read",
        (
            "faults/test_hostile.py::test_no_file_of_weights_runs_a_command",
            "faults/test_hostile.py::test_no_folder_makes_a_resume_unpickle",
            "data/files/test_pickles.py::test_nothing_hostile_is_run",
            "data/test_npz.py::test_pickled_arrays_are_not_read",
            "test_config.py::test_a_file_cannot_make_us_import_code",
            "deploy/test_wire.py::test_garbage_is_refused_and_nothing_else_happens",
        ),
    ),
    Gate(
        "C6",
        "archives, templates, links and indexes that lead out of their folder",
        "the path and the rule that it breaks",
        (
            "data/files/test_archive.py::test_members_that_climb_out",
            "data/files/test_archive.py::test_members_of_another_kind",
            "data/files/test_hdf5.py::test_data_in_other_files_are_refused",
            "data/lerobot/test_layout.py::test_templates_stay_inside_the_root",
            "data/lerobot/test_reader.py::test_a_template_that_escapes_is_refused_by_the_reader",
            "faults/test_hostile.py::test_an_encoder_folder_names_files_of_its_own_only",
            "train/test_checkpoint.py::test_a_manifest_names_files_of_its_folder_only",
        ),
    ),
    Gate(
        "C7",
        "bombs: headers of terabytes, deep JSON, huge pictures, archives that unpack for ever",
        "what is declared and what is allowed, within a second",
        (
            "faults/test_hostile.py::test_bombs_are_refused_soon_and_in_little_memory",
            "faults/test_hostile.py::test_a_checkpoint_may_not_be_a_bomb_either",
            "faults/test_hostile.py::test_a_zip_bomb_is_no_file_of_weights",
            "data/files/test_archive.py::test_bombs",
            "data/files/test_hdf5.py::test_chunks_of_gigabytes_are_refused",
            "data/video/test_images.py::test_a_bomb_is_refused_by_its_header",
            "data/rlds/test_features.py::test_a_bomb_is_not_unpacked",
            "data/rlds/test_tfrecord.py::test_a_length_that_lies_with_a_right_checksum_reads_nothing",
        ),
    ),
    Gate(
        "C10",
        "a rank dies, or its disk is full, while all write; 4 ranks write and 1 or 2 read",
        "rank 0 of 4 lost another one ...; no manifest, so no checkpoint",
        (
            "train/test_layout.py::test_a_rank_that_cannot_write_leaves_no_half_checkpoint",
            "train/test_layout.py::test_a_run_goes_on_with_other_numbers_of_ranks_and_layouts",
            "train/test_checkpoint.py::test_rows_of_several_files_are_joined",
        ),
    ),
    Gate(
        "C11",
        "files of an older version, and of one to come",
        "MANIFEST.json has schema 9, this version reads up to 2",
        (
            "train/test_checkpoint.py::test_a_checkpoint_of_the_first_version_is_read_and_goes_on",
            "train/test_checkpoint.py::test_a_checkpoint_of_a_version_to_come_is_told",
        ),
    ),
    Gate(
        "D1",
        "TFRecord: flipped, cut, appended to, missing shards, wrong counts",
        "droid-00017: record 5 has a wrong checksum at byte 43458910",
        (
            "data/rlds/test_shards.py",
            "data/rlds/test_tfrecord.py::test_a_broken_file_is_named_with_the_place",
            "data/rlds/test_tfrecord.py::test_damage_ends_in_our_error_and_soon",
            "data/rlds/test_records.py::test_damage_anywhere_ends_in_our_error",
        ),
    ),
    Gate(
        "D2",
        "HDF5: cut, writer killed, flipped, missing keys, links to other files",
        "the file, the group and the key",
        (
            "data/files/test_hdf5.py",
            "data/files/test_hdf5_checks.py",
            "data/libero/test_reader.py::test_faults_are_named",
            "data/passes/test_checksums.py::test_what_is_not_as_it_was_is_named",
        ),
    ),
    Gate(
        "D3",
        "video: cut, shorter than its table, edit lists, rotation, no frames, flipped bits",
        "the file, the frame and its time",
        (
            "data/video/test_film.py",
            "data/video/test_codec.py",
            "data/lerobot/test_tables.py::test_a_video_that_is_shorter_than_its_rows_is_an_error",
        ),
    ),
    Gate(
        "D4",
        "parquet: cut, flipped, gaps in the rows, numbers that are none",
        "the file, the column and the row",
        (
            "data/lerobot/test_tables.py::test_damage_is_found",
            "data/lerobot/test_tables.py::test_tables_that_lack_something_are_refused",
            "data/lerobot/test_reader.py::test_rows_must_be_in_order_and_finite",
            "data/lerobot/test_reader.py::test_names_damaged_files",
        ),
    ),
    Gate(
        "D5",
        "pictures: cut, flipped, CMYK, turned, of two sizes",
        "the record and the frame",
        ("data/video/test_images.py",),
    ),
    Gate(
        "D6",
        "one bad sample of many",
        "stops; or, where asked, its neighbour stands in for it, and a file lists it",
        (
            "data/test_loader.py::test_another_sample_of_the_batch_stands_in_for_a_bad_one",
            "data/test_loader.py::test_there_is_a_most_of_bad_samples",
            "data/test_loader.py::test_a_batch_of_bad_samples_only_is_an_error",
            "data/files/test_faults.py",
            "experiments/test_training.py::test_bad_samples_are_listed_and_the_run_goes_on",
        ),
    ),
    Gate(
        "D7",
        "a converter is killed at any write, the disk is full, two at once, a source that changes",
        "resuming: 41 of 96 shards are done",
        (
            "data/passes/test_convert.py",
            "data/lerobot/test_writer.py",
            "data/cache/test_reader.py::test_a_killed_build_goes_on",
        ),
    ),
    Gate(
        "D8",
        "object storage: cut, stalled, refused, replaced, wrong bytes, no such host",
        "the address, the attempts, the bytes, the next step",
        ("data/remote/test_transfer.py", "data/remote/test_cache.py"),
    ),
    Gate(
        "D9",
        "an upload that is cut, refused, altered on the way; an outage; an empty machine",
        "cannot copy to s3://lab/run (...); training goes on",
        ("train/test_sync.py",),
    ),
    Gate(
        "D10",
        "pickles in data sets",
        "the name that was refused",
        (
            "data/files/test_pickles.py",
            "data/bridge/test_raw.py::test_a_pickle_that_would_run_something",
            "data/bridge/test_npy.py::test_hostile_and_damaged_files",
        ),
    ),
    Gate(
        "D12",
        "few file handles, forks and spawns, names that are no text, files replaced meanwhile",
        "what is missing, with the command that mends it",
        (
            "data/files/test_hdf5.py::test_few_files_are_open_at_once",
            "data/video/test_film.py::test_few_files_stay_open",
            "data/video/test_film.py::test_a_replaced_file_is_opened_again",
            "data/files/test_folder.py::test_names_that_are_no_text_do_not_stop_a_listing",
            "data/files/test_folder.py::test_a_folder_travels_to_other_processes_and_threads",
            "data/lerobot/test_tables.py::test_memory_and_open_files_are_bounded",
            "faults/test_limits.py",
        ),
    ),
    Gate(
        "U1",
        "wrong options: misspelt, of another type, out of range, in a file or on the line",
        "all mistakes at once, before anything is written",
        (
            "commands/test_train.py::test_a_wrong_option_ends_before_anything_is_written",
            "train/test_config.py::test_all_mistakes_are_told_at_once",
            "commands/test_recipe_file.py",
            "test_config.py::test_an_unknown_field_is_an_error_with_a_hint",
            "data/test_formats.py::test_wrong_options_are_refused",
            "test_cli.py::test_an_unknown_verb_lists_those_there_are",
        ),
    ),
    Gate(
        "U3",
        "doctor, data verify and runs verify on good and on damaged things",
        "the right verdict on each, as text and as JSON",
        (
            "test_doctor.py",
            "commands/test_doctor.py",
            "data/passes/test_verify.py",
            "commands/test_data.py::test_verify_lists_what_is_broken",
            "commands/test_runs.py::test_a_damaged_checkpoint_is_an_error",
        ),
    ),
    Gate(
        "U4",
        "a policy server is sent nonsense, too much, too slowly; clients vanish",
        "an error code in the reply; the server stays",
        ("deploy/test_server.py", "deploy/test_wire.py"),
    ),
    Gate(
        "U5",
        "on the robot: the server is dead or late, answers NaN or too much; a camera freezes",
        "hold, then stop; commands are clipped and counted; a log of events",
        (
            "deploy/test_guard.py",
            "deploy/test_client.py",
            "deploy/test_runner.py::test_what_cannot_be_executed_is_refused",
        ),
    ),
)
