"""Instructions by the text network of CLIP (Radford et al., 2021, arXiv 2103.00020), frozen."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saccade.checkpoint import CONFIG
from saccade.config import Config
from saccade.errors import CheckpointError, DataError
from saccade.models.hub_folder import load_network, part_settings, read_json, require_transformers
from saccade.models.language import Language, plain

KINDS = ("clip", "clip_text_model")
OTHERS = ("vision_model.", "visual_projection.", "text_projection.", "logit_scale")


@dataclass(frozen=True, kw_only=True)
class ClipTextConfig(Config["ClipText"]):
    """A network on this machine.

    Args:
        folder: ``config.json``, safetensors and tokenizer, such as openai/clip-vit-base-patch16.
        tokens: vectors of one instruction: those of its first words, from the start mark on, and
            zeros behind the end mark; 0 gives one, the pooled vector.
    """

    folder: Path
    tokens: int = 0

    def build(self) -> "ClipText":
        """Load network and tokenizer.

        Raises:
            CheckpointError: something is missing, of another kind, or a weight does not fit.
        """
        require_transformers(self.folder)
        from transformers import CLIPTokenizer

        settings = part_settings(read_json(self.folder, CONFIG), "text", KINDS, str(self.folder))
        require_tokenizer(self.folder)
        try:
            tokenizer = CLIPTokenizer.from_pretrained(self.folder, local_files_only=True)
            words = tokenizer.backend_tokenizer.to_str().encode()
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"the tokenizer in {self.folder} cannot be read ({error}); fetch the folder again"
            ) from error
        kept = KeptClipTextConfig(
            settings=json.dumps(settings), words=len(words), tokens=self.tokens
        )
        language = kept.build()
        kind, shape = type(language.network), language.network.config
        language.network = load_network(kind, shape, self.folder, OTHERS)
        language.words.copy_(torch.frombuffer(bytearray(words), dtype=torch.uint8))
        return language


def require_tokenizer(folder: Path) -> None:
    """Look for its files; without them transformers would make one that knows no word.

    Raises:
        CheckpointError: they are not there.
    """
    if (folder / "tokenizer.json").is_file():
        return
    if missing := [n for n in ("vocab.json", "merges.txt") if not (folder / n).is_file()]:
        raise CheckpointError(
            f"{folder} has no tokenizer: neither tokenizer.json nor {' and '.join(missing)}; fetch "
            "the whole folder"
        )


@dataclass(frozen=True, kw_only=True)
class KeptClipTextConfig(Config["ClipText"]):
    """A network whose weights and tokenizer are among the weights of a saved model.

    Args:
        settings: those of the network, as JSON.
        words: bytes of the tokenizer.
        tokens: see ``ClipTextConfig``.
    """

    settings: str
    words: int
    tokens: int

    def build(self) -> "ClipText":
        """Construct the network, to be filled from a state dict."""
        require_transformers(Path(CONFIG))
        return ClipText(self)


class ClipText(Language):
    """Text in, the network's pooled vector or those of its tokens out; remembers what it read."""

    words: Tensor

    def __init__(self, config: KeptClipTextConfig) -> None:
        super().__init__()
        from transformers import CLIPTextConfig, CLIPTextModel

        self.config, self.pooled, self.tokens = config, not config.tokens, config.tokens or 1
        settings = CLIPTextConfig.from_dict(json.loads(config.settings))
        most = settings.max_position_embeddings
        self.room = min(config.tokens or most, most)
        self.dim = settings.hidden_size
        self.network: Any = CLIPTextModel(settings).requires_grad_(False).eval()
        self.register_buffer("words", torch.zeros(config.words, dtype=torch.uint8))
        self.known: dict[str, Tensor] = {}
        self.tokenizer: Any = None
        self.register_load_state_dict_post_hook(_forget)

    def train(self, mode: bool = True) -> "ClipText":
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Float[Tensor, "b m e"]:
        """Return the vectors of each text.

        Raises:
            DataError: a text is empty, or longer than there is room for.
            CheckpointError: the tokenizer is not that of the network.
        """
        for text in set(texts) - self.known.keys():
            self.known[text] = self.read(plain(text))
        return torch.stack([self.known[text] for text in texts]).to(self.words.device)

    def read(self, text: str) -> Float[Tensor, "m e"]:
        """Run the network on one text."""
        if self.tokenizer is None:
            from tokenizers import Tokenizer

            self.tokenizer = Tokenizer.from_str(bytes(self.words.tolist()).decode())
            self.tokenizer.no_truncation()
            self.tokenizer.no_padding()
        ids = self.tokenizer.encode(text).ids
        if len(ids) > self.room:
            raise DataError(
                f"the instruction {text!r} has {len(ids)} tokens, there is room for {self.room}; "
                "shorten it, or raise the tokens of the language"
            )
        if max(ids) >= self.network.config.vocab_size:
            raise CheckpointError(
                f"the tokenizer gives token {max(ids)}, the network knows "
                f"{self.network.config.vocab_size}; they are not of one model"
            )
        device = self.words.device
        with torch.autocast(device.type, enabled=False):  # vectors are kept: the same for everyone
            found = self.network(torch.tensor([ids], device=device))
        if self.pooled:
            return found.pooler_output.float()
        words = found.last_hidden_state[0].float()
        return nn.functional.pad(words, (0, 0, 0, self.tokens - len(ids)))


def _forget(language: nn.Module, incompatible: object) -> None:
    """Other weights give other vectors."""
    del incompatible
    assert isinstance(language, ClipText)
    language.known, language.tokenizer = {}, None
