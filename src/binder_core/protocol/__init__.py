"""APIs declared as data, and the older Binder protocol as one of them.

Server routes, client, command line and descriptions are made from one `Protocol`. What travels
between the two ends is decided by the four functions of `binder_core.protocol.wire` alone.
"""

from binder_core.protocol.binder import BINDER
from binder_core.protocol.declaration import (
    GLOBAL_PARAMS,
    DeclarationError,
    Endpoint,
    ErrorCase,
    Fields,
    Group,
    Items,
    Kind,
    Maybe,
    Param,
    Protocol,
    Request,
    Response,
    Shape,
    Success,
    filled,
)
from binder_core.protocol.document import dump, dumps, load, loads
from binder_core.protocol.failures import Failure, declared, failure, failure_class
from binder_core.protocol.names import class_name, kebab_name, python_name
from binder_core.protocol.wire import (
    Call,
    Match,
    Value,
    fill,
    interpret,
    match,
    methods,
    parse,
    read_value,
)

__all__ = [
    "BINDER",
    "GLOBAL_PARAMS",
    "Call",
    "DeclarationError",
    "Endpoint",
    "ErrorCase",
    "Failure",
    "Fields",
    "Group",
    "Items",
    "Kind",
    "Match",
    "Maybe",
    "Param",
    "Protocol",
    "Request",
    "Response",
    "Shape",
    "Success",
    "Value",
    "class_name",
    "declared",
    "dump",
    "dumps",
    "failure",
    "failure_class",
    "fill",
    "filled",
    "interpret",
    "kebab_name",
    "load",
    "loads",
    "match",
    "methods",
    "parse",
    "python_name",
    "read_value",
]
