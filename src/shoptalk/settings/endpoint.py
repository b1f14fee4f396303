"""An embeddings endpoint that `shoptalk compare` measures."""

from __future__ import annotations

from pydantic import Field, model_validator

from shoptalk.errors import SettingsError
from shoptalk.settings.section import Section


class EndpointSettings(Section):
    """An embeddings endpoint in `shoptalk compare`. The key comes from the environment alone: OPENAI_API_KEY."""

    price: float = Field(0, ge=0, description="money per million tokens that you pay; 0: unknown or free")
    max_cost: float | None = Field(None, ge=0, description="money for one comparison, never exceeded; needs price")
    max_tokens: int | None = Field(None, ge=0, description="tokens of one comparison, never exceeded")
    query_prompt: str = Field("", description="put before queries; the server adds none")
    passage_prompt: str = Field("", description="put before passages")
    max_chars: int = Field(0, ge=0, description="longer texts are cut there; 0: they are sent whole")
    batch_size: int = Field(64, ge=1, le=2_048, description="texts in a call")
    timeout_s: float = Field(120, gt=0, description="for one whole call")
    max_retries: int = Field(6, ge=0, description="of a call that failed on the way (429, 5xx, timeout)")
    max_wait_s: float = Field(300, gt=0, description="longest wait that a server may ask for; beyond it the run stops")

    @model_validator(mode="after")
    def _fits_together(self) -> EndpointSettings:
        if self.max_cost is not None and not self.price:
            raise SettingsError("endpoint.max_cost needs endpoint.price; or cap endpoint.max_tokens instead")
        return self
