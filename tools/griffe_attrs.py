"""Show the API page how attrs classes are built: a griffe extension, loaded by mkdocs.yml.

Griffe reads source and runs none of it, so it does not see the `__init__` that attrs generates.
"""

from __future__ import annotations

from typing import Any, Final

from griffe import (
    Alias,
    Attribute,
    Class,
    ExprCall,
    ExprKeyword,
    Extension,
    Function,
    Parameter,
    ParameterKind,
    Parameters,
)

PACKAGE: Final = "cogni_billing."
DECORATORS: Final = {"attrs.define", "attrs.frozen"}
SELF: Final = Parameter("self", kind=ParameterKind.positional_or_keyword)


class AttrsExtension(Extension):
    """Adds an `__init__` with the fields of the class and of its bases."""

    def on_package(self, *, pkg: Any, **_: Any) -> None:
        """Handle the classes of all modules, when these are loaded."""
        for member in pkg.members.values():
            if member.is_alias:
                continue
            if member.is_module:
                self.on_package(pkg=member)
            elif member.is_class and _decorator(member) is not None:
                init = Function("__init__", parameters=_parameters(member), returns="None")
                member.set_member("__init__", init)


def _decorator(cls: Class) -> Any:
    for decorator in cls.decorators:
        if decorator.callable_path in DECORATORS:
            return decorator.value
    return None


def _parameters(cls: Class) -> Parameters:
    found: dict[str, Parameter] = {}
    for base in [*reversed(cls.mro()), cls]:
        options = _options(_decorator(base))
        for member in base.members.values():
            if isinstance(member, Attribute) and _is_field(member):
                parameter = _parameter(member, options)
                found.update({parameter.name: parameter} if parameter else {})
    ordered = sorted(found.values(), key=lambda each: each.kind is ParameterKind.keyword_only)
    return Parameters(SELF, *ordered)


def _is_field(member: Attribute) -> bool:
    """A `ClassVar` has the label of a class attribute alone, and a property has neither."""
    return member.annotation is not None and "instance-attribute" in member.labels


def _parameter(member: Attribute, of_class: dict[str, Any]) -> Parameter | None:
    options = _options(member.value)
    if options.get("init") == "False":
        return None
    keyword_only = "True" in (of_class.get("kw_only"), options.get("kw_only"))
    return Parameter(
        member.name.lstrip("_"),
        annotation=_taken(options.get("converter"), member) or member.annotation,
        kind=ParameterKind.keyword_only if keyword_only else ParameterKind.positional_or_keyword,
        default=_default(member, options),
    )


def _taken(converter: Any, member: Attribute) -> Any:
    """The type that a converter takes, if it is narrower than `object`."""
    found = member.module.members.get(str(converter))
    if isinstance(found, Alias) and found.target_path.startswith(PACKAGE):
        found = found.final_target
    if not isinstance(found, Function):
        return None
    annotation = found.parameters[0].annotation
    return None if str(annotation) in {"object", "Any"} else annotation


def _default(member: Attribute, options: dict[str, Any]) -> Any:
    if not (isinstance(member.value, ExprCall) and member.value.canonical_path == "attrs.field"):
        return member.value
    factory = options.get("factory")
    return options.get("default") if factory is None else ExprCall(factory, [])


def _options(call: Any) -> dict[str, Any]:
    arguments = call.arguments if isinstance(call, ExprCall) else ()
    return {each.name: each.value for each in arguments if isinstance(each, ExprKeyword)}
