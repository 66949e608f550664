"""`NAME[@alias|/version]`: the text that names a version of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from prinz_enricher.contract import model_pb2


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A version of a model, by number, by alias, or the default.

    Attributes:
        name: The registered model's name, without `/`, as in MLflow.
        version: The version number, if any.
        alias: The alias, if any.

    Examples:
        >>> ModelReference("wine", alias="champion")
        ModelReference(name='wine', version=None, alias='champion')
    """

    name: str
    version: str | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `wine`, `wine/3` or `wine@champion`; the alias follows the last `@`.

        Raises:
            ValueError: A part is empty.

        Examples:
            >>> ModelReference.parse("wine/3").version
            '3'
        """
        name, slash, version = text.partition("/")
        if slash:
            reference = cls(name, version=version)
        else:
            # A name may hold an @ of its own; an alias may not.
            name, at, alias = text.rpartition("@")
            reference = cls(name, alias=alias) if at else cls(text)
        if not reference.name or reference.version == "" or reference.alias == "":
            raise ValueError(f'invalid model "{text}"; expected NAME, NAME/version or NAME@alias')
        return reference

    @classmethod
    def candidates(cls, text: str) -> tuple[Self, ...]:
        """Return what a text may name, in turn: a model of the whole name comes before an alias of another one.

        Raises:
            ValueError: A part is empty.

        Examples:
            >>> [one.name for one in ModelReference.candidates("a@b")]
            ['a@b', 'a']
        """
        reference = cls.parse(text)
        return (reference,) if reference.alias is None else (cls(text), reference)

    def to_message(self) -> model_pb2.ModelRef:
        """Return the reference as a message of the contract.

        Examples:
            >>> ModelReference("wine", version="3").to_message().version
            '3'
        """
        return model_pb2.ModelRef(name=self.name, version=self.version, alias=self.alias)
