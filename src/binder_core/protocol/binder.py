"""The older Binder protocol: names and numbers are its own, the texts ours."""

from __future__ import annotations

from typing import Final

from binder_core.protocol.declaration import (
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
)

_DATABASE: Final = (
    "check that the database is running and that the server can reach it",
    "look into the server's log for what the database said",
)
_KEEP_TRYING: Final = "try again in a little while"


def _database(msg: str) -> ErrorCase:
    return ErrorCase("badDatabase", 500, msg, _DATABASE)


def _bad_query(msg: str) -> ErrorCase:
    return ErrorCase("badQuery", 500, msg, _DATABASE)


def _template_name(description: str, *, required: bool = True) -> Param:
    return Param("template-name", Kind.STRING, description, required)


_BUILD: Final[Shape] = Fields(
    (
        ("name", Kind.STRING),
        ("start-time", Kind.DATE),
        ("status", Kind.STRING),
        ("phase", Kind.STRING),
        ("repository", Kind.STRING),
    )
)
_TEMPLATE: Final[Shape] = Fields(
    (
        ("name", Kind.STRING),
        ("image-name", Kind.STRING),
        ("image-source", Kind.STRING),
        ("port", Kind.NUMBER),
        ("limits", Fields((("memory", Maybe(Kind.STRING)), ("cpu", Maybe(Kind.NUMBER))))),
        ("services", Items(Kind.OBJECT)),
    )
)
_DEPLOYMENT: Final[Shape] = Fields((("id", Kind.STRING), ("location", Maybe(Kind.STRING))))
_HEALTH: Final[Shape] = Fields(
    (("name", Kind.STRING), ("timestamp", Kind.DATE), ("status", Kind.STRING))
)

_NO_BUILD_INFO: Final = ErrorCase(
    "noBuildInfo",
    500,
    "There is no record of such a build",
    (
        "check the name: `build start` answers with it, and `build status-all` lists all of them",
        "start the build: old records are removed after some time",
    ),
)

_BUILD_GROUP: Final = Group(
    "build",
    (
        Endpoint(
            name="start",
            path="/builds/",
            description="Start to build the image of a repository",
            msg="Starting the build of {repository}",
            params=(
                Param(
                    "repository",
                    Kind.STRING,
                    "address of the repository, e.g. https://github.com/<owner>/<name>",
                ),
                Param(
                    "force",
                    Kind.BOOLEAN,
                    "stop the build of this repository that is under way, and start anew",
                    required=False,
                ),
            ),
            request=Request("POST", authorized=True, body=("repository", "force")),
            response=Response(
                body=Fields((("name", Kind.STRING),)),
                errors=(
                    ErrorCase(
                        "noDatabase",
                        500,
                        "The build was not started: there is no database to record it in",
                        _DATABASE,
                    ),
                    _bad_query("The build was not started: recording it failed"),
                    ErrorCase(
                        "badRepoSource",
                        500,
                        "No repository can be built from {repository}",
                        (
                            "give the address of a public repository on GitHub",
                            "check that the repository exists",
                        ),
                    ),
                    ErrorCase(
                        "alreadyBuilding",
                        500,
                        "{repository} is being built already",
                        (
                            "follow the build that is under way with `build status`",
                            "start another one with `force`",
                        ),
                    ),
                ),
                success=Success("The build of {repository} has started:\n{results}"),
            ),
        ),
        Endpoint(
            name="status",
            path="/builds/{image-name}",
            description="Get the state of one build",
            msg="Getting the state of the build {image-name}",
            params=(Param("image-name", Kind.STRING, "name that `build start` answered with"),),
            request=Request("GET"),
            response=Response(
                body=_BUILD,
                errors=(_NO_BUILD_INFO, _bad_query("Reading the record of the build failed")),
                success=Success("The build:\n{results}"),
            ),
        ),
        Endpoint(
            name="statusAll",
            path="/builds/",
            description="Get the state of all builds",
            msg="Getting the state of all builds",
            request=Request("GET", authorized=True),
            response=Response(
                body=Items(_BUILD),
                errors=(_NO_BUILD_INFO, _bad_query("Reading the records of the builds failed")),
                success=Success("All builds:\n{results}"),
            ),
        ),
    ),
)

_REGISTRY_GROUP: Final = Group(
    "registry",
    (
        Endpoint(
            name="fetch",
            path="/templates/{template-name}",
            description="Get one template",
            msg="Getting the template {template-name}",
            params=(_template_name("name of the template"),),
            request=Request("GET", authorized=True),
            response=Response(
                body=_TEMPLATE,
                errors=(
                    _database("Reading the template {template-name} failed"),
                    ErrorCase(
                        "doesNotExist",
                        404,
                        "There is no template {template-name}",
                        (
                            "check the name: `registry fetch-all` lists all of them",
                            "build the repository first: a finished build makes its template",
                        ),
                    ),
                ),
                success=Success("The template:\n{results}"),
            ),
        ),
        Endpoint(
            name="fetchAll",
            path="/templates/",
            description="Get all templates",
            msg="Getting all templates",
            request=Request("GET", authorized=True),
            response=Response(
                body=Items(_TEMPLATE),
                errors=(_database("Reading the templates failed"),),
                success=Success("All templates:\n{results}"),
            ),
        ),
    ),
)

_NO_TEMPLATE: Final = ErrorCase(
    "registryError",
    500,
    "The template {template-name} could not be had from the registry",
    (
        "check the name: `registry fetch-all` lists all of them",
        "build the repository first: a finished build makes its template",
    ),
)

_DEPLOY_GROUP: Final = Group(
    "deploy",
    (
        Endpoint(
            name="deploy",
            path="/applications/",
            description="Launch a notebook server from a template",
            msg="Launching the template {template-name}",
            params=(
                _template_name("name of the template to launch"),
                Param(
                    "cull-timeout",
                    Kind.NUMBER,
                    "seconds without use after which the server is stopped",
                    required=False,
                ),
            ),
            request=Request("POST", body=("template-name", "cull-timeout")),
            response=Response(
                body=Fields((("id", Kind.STRING),)),
                errors=(_NO_TEMPLATE, _database("Recording the launch failed")),
                success=Success("The launch has begun:\n{results}"),
            ),
        ),
        Endpoint(
            name="status",
            path="/applications/{template-name}/{id}",
            description="Get the state of one launched server; it has a location once it answers",
            msg="Getting the state of {id}, launched from {template-name}",
            params=(
                _template_name("name of the template that was launched"),
                Param("id", Kind.STRING, "id that `deploy deploy` answered with"),
            ),
            request=Request("GET"),
            response=Response(
                body=_DEPLOYMENT,
                errors=(
                    _database("Reading the record of the launch failed"),
                    ErrorCase(
                        "noRecord",
                        500,
                        "Nothing with the id {id} runs, launched from {template-name}",
                        (
                            "check template and id: `deploy status-all` lists what runs",
                            "launch the template again: servers that nobody uses are stopped",
                        ),
                    ),
                ),
                success=Success("The server:\n{results}"),
            ),
        ),
        Endpoint(
            name="statusAll",
            path="/applications/{template-name}",
            description="Get the state of all servers launched from a template, or from any",
            msg="Getting the state of all launched servers {template-name}",
            params=(
                _template_name("name of the template; all of them if left out", required=False),
            ),
            request=Request("GET", authorized=True),
            response=Response(
                body=Items(_DEPLOYMENT),
                errors=(_database("Reading the records of the launches failed"),),
                success=Success("All servers:\n{results}"),
            ),
        ),
        Endpoint(
            name="_preload",
            path="/preload/{template-name}",
            description="Bring a template's image to all nodes, so that it launches at once there",
            msg="Preloading the template {template-name}",
            params=(_template_name("name of the template to preload"),),
            request=Request("POST", authorized=True),
            response=Response(
                errors=(
                    _database("Reading the template {template-name} failed"),
                    _NO_TEMPLATE,
                    ErrorCase(
                        "badKubeRequest",
                        500,
                        "The cluster refused to preload {template-name}",
                        (
                            "look into the server's log for what the cluster said",
                            "check what the server's account may do in the cluster",
                        ),
                    ),
                    ErrorCase(
                        "unknownFailure",
                        500,
                        "Preloading {template-name} failed",
                        ("look into the server's log for the reason", _KEEP_TRYING),
                    ),
                ),
                success=Success("The template {template-name} is being preloaded\n{results}"),
            ),
        ),
        Endpoint(
            name="_preloadStatus",
            path="/preload/{template-name}",
            description="Get how far the preloading of a template is",
            msg="Getting how far the preloading of {template-name} is",
            params=(_template_name("name of the template that is being preloaded"),),
            request=Request("GET", authorized=True),
            response=Response(
                errors=(_database("Reading the state of the preloading failed"),),
                success=Success("The preloading:\n{results}"),
            ),
        ),
    ),
)

_HEALTH_GROUP: Final = Group(
    "health",
    (
        Endpoint(
            name="status",
            path="/health/",
            description="Get the state of all parts of the server",
            msg="Getting the state of all parts of the server",
            request=Request("GET", authorized=True),
            response=Response(
                body=Items(_HEALTH),
                errors=(_bad_query("Reading the state of the server failed"),),
                success=Success("All parts:\n{results}"),
            ),
        ),
    ),
)

BINDER: Final = Protocol(
    groups=(_BUILD_GROUP, _REGISTRY_GROUP, _DEPLOY_GROUP, _HEALTH_GROUP),
    params=(
        Param("api-key", Kind.STRING, "key that the server knows; see `binder keys`"),
        Param("host", Kind.STRING, "name or address of the server"),
        Param("port", Kind.NUMBER, "port of the server"),
    ),
    errors=(
        ErrorCase(
            "unauthorized",
            403,
            "The API key is missing, wrong or revoked",
            ("give a key that the server knows; its operator makes them with `binder keys`",),
        ),
        ErrorCase(
            "malformedRequest",
            422,
            "The request {name} is malformed",
            ("check names and types of the parameters against the description of {name}",),
        ),
        ErrorCase(
            "badResponse",
            500,
            "The answer to {name} makes no sense",
            ("check that a Binder server of this protocol is at this address",),
        ),
        ErrorCase(
            "timeout",
            None,
            "{host}:{port} did not answer in time",
            (
                "check that host and port are right, and that no firewall is between",
                _KEEP_TRYING,
            ),
        ),
        ErrorCase(
            "refused",
            None,
            "No server takes connections at {host}:{port}",
            ("check that host and port are right, and that the server is running",),
        ),
        ErrorCase(
            "generic",
            None,
            "The request failed: {error}",
            ("look into the server's log for the reason",),
        ),
    ),
)
"""All of it."""
