"""The key that a customer is connecting, as the form names it. Nothing of it is stored anywhere.

Each step of connecting carries the whole of it, so a page can be sent to the colleague who changes
key policies, and two of them can work at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode

from keyfold import InvalidInputError, KeyfoldError, KeySpec
from keyfold_console.pages.organizations.providers import ProviderForm, form_of

_PLACE: Final = ("region", "geo")
_ABOUT: Final = ("key_link", "description")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A key that is to be linked.

    Attributes:
        form: The form of its provider.
        values: What stands in the fields, without spaces at either end.
        problems: What is wrong with fields, by the field's name.
    """

    form: ProviderForm
    values: Mapping[str, str]
    problems: Mapping[str, str] = field(default_factory=dict)

    @property
    def spec(self) -> KeySpec:
        """The key spec that the fields make."""
        return self.form.spec(self.values)

    @property
    def region(self) -> str:
        """The region whose data the key protects; empty if it has a geo."""
        return self.values.get("region", "")

    @property
    def geo(self) -> str:
        """The geo for whose regions the key is, with its replicas; empty: it is for one region."""
        return self.values.get("geo", "")

    @property
    def place(self) -> str:
        """Where the key is for, in words."""
        return f"geo {self.geo}" if self.geo else self.region

    @property
    def name(self) -> str:
        """The name of the link: the customer's, or one that says provider and place."""
        given = self.values.get("key_link", "")
        short = self.form.type.split("_")[0].lower()
        return given or f"{short}-{(self.geo or self.region).lower()}"

    @property
    def description(self) -> str:
        """What the key is for, in the customer's words."""
        return self.values.get("description", "")

    @property
    def hidden(self) -> Mapping[str, str]:
        """The fields of the form, for a step after the first one."""
        return {name: value for name, value in self.values.items() if value} | {
            "type": self.form.type
        }

    @property
    def query(self) -> str:
        """The query of the address at which the form is filled in with this."""
        return urlencode(self.hidden)

    @classmethod
    def of(cls, given: Mapping[str, object]) -> Wanted | None:
        """Reads the fields of a form or of a query; None if they name no provider."""
        texts = {name: value.strip() for name, value in given.items() if isinstance(value, str)}
        form = form_of(texts.get("type", ""))
        if form is None:
            return None
        names = (*(each.name for each in form.fields), *_PLACE, *_ABOUT)
        return cls(form, {name: texts.get(name, "") for name in names})

    def checked(self) -> Wanted:
        """Returns it with what is wrong with it before anybody is asked."""
        problems = {
            each.name: f"Fill in: {each.label}."
            for each in self.form.fields
            if each.required and not self.values[each.name]
        }
        if not self.region and not self.geo:
            problems["region"] = "Fill in the region that your vendor told you."
        elif self.region and self.geo:
            problems["geo"] = "Fill in a region or a geo, and leave the other one empty."
        if bool(self.values.get("tenant")) != bool(self.values.get("client")):
            problems["client"] = "Fill in both the tenant and the application, or neither."
        return Wanted(self.form, self.values, problems)

    def refused(self, error: KeyfoldError) -> Wanted:
        """Returns it with what the server says of its fields."""
        if not isinstance(error, InvalidInputError):
            return self
        problems = dict(self.problems)
        for violation in error.field_violations:
            problems[self._field_of(violation.field)] = violation.description
        return Wanted(self.form, self.values, problems)

    def _field_of(self, path: str) -> str:
        last = path.removeprefix("key_link.")
        for each in self.form.fields:
            if last.startswith(each.violates):
                return each.name
        return last if last in {*_PLACE, *_ABOUT} else "uri"
