"""The schema of conf/provider/*.yaml: where models come from. A provider that a user adds is one more YAML, no code."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, model_validator

from sia_runner.schema.parts import Count, Named, Part, Positive

Dollars = Annotated[float, Field(ge=0)]


class Prices(Part):
    """US dollars per million tokens; they win over litellm's table."""

    input: Dollars
    output: Dollars
    cached_input: Dollars | None = None  # null: as input


class Offline(Named):
    kind: Literal["offline"]  # no model can be called


class Hosted(Named):
    """An HTTP endpoint that serves models: a company's, a cluster's, or a server on this machine."""

    kind: Literal["hosted"]
    # what the endpoint speaks: such requests are passed through as they are, others are translated by litellm;
    # `litellm`: everything is translated
    api: Literal["openai", "anthropic", "litellm"]
    litellm: str  # litellm's name of the provider, the part before the slash in its model names
    model: Annotated[str, Field(min_length=1)]
    base_url: str | None = None  # up to and including /v1; null: litellm's own address of the provider
    key: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] | None = None  # environment variable; null: needs none
    key_file: str | None = None  # read where the variable is not set; its first line is the key
    concurrency: Count = 16  # calls under way at the same time, per process
    timeout: Positive = 120.0  # seconds of one attempt, to its last byte
    attempts: Count = 5  # of one call, for what is transient
    patience: Positive = 60.0  # seconds: the longest wait between two attempts, a Retry-After included
    max_tokens: Count = 8192  # completion bound of a request that names none
    cache: bool = False  # keep answers on disk, keyed by the whole request
    prices: Prices | None = None
    headers: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _address(self) -> "Hosted":
        if self.api != "litellm" and not self.base_url:
            raise ValueError(f"api={self.api} needs base_url, the address up to and including /v1")
        if self.base_url and not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url={self.base_url}: must begin with http:// or https://")
        return self


Provider = Annotated[Offline | Hosted, Discriminator("kind")]
