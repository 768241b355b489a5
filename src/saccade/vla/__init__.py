"""Our encoders inside vision-language-action models: OpenVLA and pi0, exchanged eyes and all."""
