"""What schemathesis asks differently, and what it holds for a fault of the server."""

import schemathesis
from schemathesis.core.failures import Failure
from schemathesis.specs.openapi.checks import response_schema_conformance

# What Kubernetes 1.36 itself answers with 500: (method, beginning of the message), with the reason why it is kept.
DOCUMENTED = [
    # A watch, or a write, that begins where there is no number: clients tell it from 410 by the code.
    ("GET", "invalid resource version"),
    ("PUT", "invalid resource version"),
    ("PATCH", "invalid resource version"),
    # A new object that says which revision it has.
    ("POST", "resourceVersion should not be set on objects to be created"),
    # Server-side apply of a field that the type does not have, whatever the field validation.
    ("PATCH", "failed to create typed patch object"),
]


@schemathesis.hook
def map_query(context, query):
    """A watch ends within a second, and nothing follows a log."""
    query = dict(query or {})
    if "watch" in query:
        query["timeoutSeconds"] = 1
    if "follow" in query:
        query["follow"] = "false"
    return query


@schemathesis.hook
def map_path_parameters(context, parameters):
    """Most made-up names are of nothing. Half of them become that of what is there, in a namespace that is there."""
    parameters = dict(parameters or {})
    if "namespace" in parameters:
        parameters["namespace"] = "default"
    if len(str(parameters.get("name", ""))) % 2 and "namespace" in parameters:
        parameters["name"] = "it"
    return parameters


@schemathesis.check
def no_fault_of_the_server(context, response, case):
    if response.status_code < 500:
        return
    try:
        message = response.json().get("message", "")
    except ValueError:
        message = ""
    known = any(case.method == method and message.startswith(start) for method, start in DOCUMENTED)
    if not known:
        raise Failure(
            operation=case.operation.label,
            title="A fault of the server",
            message=f"{response.status_code}: {message}",
        )


@schemathesis.check
def the_answer_is_of_its_type(context, response, case):
    # As in Kubernetes, the document does not say that a watch answers a line per event, and that a deletion answers the
    # object where it waits for finalizers.
    watches, deletes = "watch" in (case.query or {}), case.method == "DELETE"
    if not watches and not deletes and response.status_code < 500:
        response_schema_conformance(context, response, case)
