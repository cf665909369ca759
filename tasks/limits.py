"""What networks can do of what instructions ask for."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from manifests.errors import Mistake
from manifests.instructions import Instruction
from styleclip_ops.errors import ConfigError

if TYPE_CHECKING:
    from tasks.models import Models

PROMPTS = ("neutral_prompt", "target_prompt")
# A token is a byte at least, and every published CLIP takes more of them.
SHORT_PROMPT = 30


class NetworkLimits:
    """Say what is wrong with instructions for some networks.

    Args:
        open_networks: Returns them; called for what only they know.
    """

    def __init__(self, open_networks: "Callable[[], Models]") -> None:
        self._open = open_networks
        self._mappers = dict[str, str]()

    def __call__(self, instruction: Instruction) -> Iterator[Mistake]:
        """Yield what the networks cannot do of an instruction."""
        yield from self.of_channels(instruction.num_channels)
        for name in PROMPTS:
            yield from self.of_prompt(getattr(instruction, name), name)
        if instruction.mapper_uri is not None:
            yield from self.of_mapper(instruction.mapper_uri)

    def of_channels(self, num_channels: int | None) -> Iterator[Mistake]:
        """Yield what is wrong with a number of style channels."""
        most = len(self._open().generator.layout.editable_channels) if num_channels else 0
        if num_channels and num_channels > most:
            expected = f"at most {most}, the editable style channels of this generator"
            yield Mistake("num_channels", num_channels, expected, "give less, or other --models")

    def of_prompt(self, prompt: str, column: str) -> Iterator[Mistake]:
        """Yield what is wrong with a prompt."""
        if not is_long(prompt):
            return
        networks = self._open()
        for clip in (networks.clip, networks.judge):
            count = clip.count_tokens(prompt)
            if count > clip.context_length:
                expected = f"at most {clip.context_length} tokens of CLIP, not {count}"
                yield Mistake(column, prompt, expected, "shorten it")
                return

    def of_mapper(self, url: str) -> Iterator[Mistake]:
        """Yield what is wrong with the address of a mapper, or with the mapper there."""
        # Seconds that a check of rows without mappers does not need.
        from tasks.mappers import require_mappers

        # Many rows may name it.
        if url not in self._mappers:
            self._mappers[url] = ""
            try:
                require_mappers([url], self._open())
            except ConfigError as error:
                self._mappers[url] = str(error)
        if wrong := self._mappers[url]:
            yield Mistake("mapper_uri", url, "a mapper trained for this generator", wrong)


def is_long(prompt: str) -> bool:
    """Whether a prompt may have more tokens than CLIP takes."""
    return len(prompt.encode()) > SHORT_PROMPT
