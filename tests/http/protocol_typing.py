"""What a type checker makes of the older protocol's clients. Never run, only checked.

Each comment that takes back an error would be an error itself if there were none.
"""

from __future__ import annotations

from binder_http.protocol_client import BlockingClient, Client, NoDatabase


def good(client: BlockingClient) -> str:
    client.deploy.deploy(template_name="x", cull_timeout=60)
    client.deploy.status_all()
    try:
        return client.build.start(repository="x", host="h", port=1, api_key="k")["name"]
    except NoDatabase as error:
        return error.suggestions[0]


async def good_later(client: Client) -> str | None:
    return (await client.deploy.status(template_name="x", id="y"))["location"]


def bad(client: BlockingClient) -> None:
    client.build.start()  # type: ignore[call-arg] # repository is missing
    client.build.start(repository=1)  # type: ignore[arg-type] # not a String
    client.build.start(repository="x", ref="y")  # type: ignore[call-arg] # not declared
    client.build.begin(repository="x")  # type: ignore[attr-defined] # no such endpoint
    client.built.start(repository="x")  # type: ignore[attr-defined] # no such group
    client.build.start(repository="x")["nam"]  # type: ignore[typeddict-item] # no such field
