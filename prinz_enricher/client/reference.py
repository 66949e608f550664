"""`NAME[@alias|/version]`: how a person names a version of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from prinz_enricher.contract import model_pb2


@dataclass(frozen=True, slots=True)
class ModelReference:
    """Names a version of a model.

    Attributes:
        name: The registered model's name; it holds no `/`, as in MLflow.
        version: The version number, if that is what was named.
        alias: The alias, if that is what was named.
    """

    name: str
    version: str | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `wine`, `wine/3` or `wine@champion`; what follows the last `@` is an alias.

        Raises:
            ValueError: A part is empty.
        """
        name, slash, version = text.partition("/")
        if slash:
            reference = cls(name, version=version)
        else:
            # A name may hold an @ of its own; an alias may not.
            name, at, alias = text.rpartition("@")
            reference = cls(name, alias=alias) if at else cls(text)
        if not reference.name or reference.version == "" or reference.alias == "":
            raise ValueError(f'"{text}" names no model: write NAME, NAME/version or NAME@alias')
        return reference

    @classmethod
    def candidates(cls, text: str) -> tuple[Self, ...]:
        """Read what a text may name, in turn: a model that is called so goes before an alias of another one.

        Raises:
            ValueError: A part is empty.
        """
        reference = cls.parse(text)
        return (reference,) if reference.alias is None else (cls(text), reference)

    def to_message(self) -> model_pb2.ModelRef:
        """Return the reference in the contract's form."""
        return model_pb2.ModelRef(name=self.name, version=self.version, alias=self.alias)
