"""The schema of conf/provider/*.yaml says where models come from; to add a provider, add a YAML, no code."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, model_validator

from sia_runner.schema.parts import Count, Named, Part, Positive

Dollars = Annotated[float, Field(ge=0)]


class Prices(Part):
    """Prices in US dollars per million tokens; they take precedence over litellm's table."""

    input: Dollars
    output: Dollars
    cached_input: Dollars | None = None  # null: the price of input


class Offline(Named):
    """The choice of no provider."""

    kind: Literal["offline"]  # no model can be called


class Hosted(Named):
    """An HTTP endpoint that serves models: a company's, a cluster's, or a server on this machine."""

    kind: Literal["hosted"]
    # the endpoint's protocol: its requests pass through unchanged, litellm translates all others;
    # `litellm`: it translates every request
    api: Literal["openai", "anthropic", "litellm"]
    litellm: str  # litellm's name of the provider, the part before the slash in its model names
    model: Annotated[str, Field(min_length=1)]
    base_url: str | None = None  # up to and including /v1; null: litellm's own address of the provider
    key: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] | None = None  # environment variable; null: needs none
    key_file: str | None = None  # read where the variable is not set; its first line is the key
    concurrency: Count = 16  # calls in parallel, per process
    timeout: Positive = 120.0  # seconds of one attempt, to its last byte
    attempts: Count = 5  # of one call, after transient errors
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
