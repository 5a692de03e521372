"""gql: queries over HTTP, and a subscription over WebSocket (graphql-transport-ws)."""

import asyncio

from client import TASK, TIMEOUT, checked, expect, listed
from gql import Client, gql
from gql.transport.aiohttp import AIOHTTPTransport
from gql.transport.exceptions import TransportQueryError
from gql.transport.websockets import WebsocketsTransport

FIELDS = "userId name email age createdAt roles"
LIST = gql("query($limit: Int!) { users(limit: $limit) { users { %s } next } }" % FIELDS)
ONE = gql("query($id: Int!) { user(id: $id) { %s } }" % FIELDS)
COUNT = gql("{ userCount }")
CREATE = gql(
    "mutation($input: CreateUserInput!) { createUser(input: $input) { %s } }" % FIELDS
)
FOLLOW = gql("subscription($after: Int) { users(after: $after) { %s } }" % FIELDS)


def renamed(user):
    names = {"userId": "user_id", "createdAt": "created_at"}
    return {names.get(name, name): value for name, value in user.items()}


async def fails(code, session, query, **values):
    query.variable_values = values
    try:
        answer = await session.execute(query)
    except TransportQueryError as error:
        first = error.errors[0]
        expect(first["extensions"]["code"] == code, f"{first} in place of {code}")
        return first
    expect(False, f"{code} was expected, not {answer}")


async def execute(session, query, **values):
    query.variable_values = values
    return await session.execute(query)


async def over_http(session):
    page = (await execute(session, LIST, limit=TASK["count"]))["users"]
    listed("gql over HTTP", [renamed(user) for user in page["users"]])
    error = await fails("NOT_FOUND", session, ONE, id=2**31 - 1)
    expect(error["message"] == f"User {2**31 - 1} not found", f"the error is {error}")
    error = await fails("INVALID_ARGUMENT", session, ONE, id=0)
    expect(error["message"] == "ID must be positive", f"the error is {error}")
    bad = {"name": "", "email": "nobody", "age": 1, "roles": []}
    error = await fails("INVALID_ARGUMENT", session, CREATE, input=bad)
    fields = [violation["field"] for violation in error["extensions"]["violations"]]
    expect(fields == ["name", "email"], f"the fields are {fields}")
    admin = {"name": "A", "email": "a@example.com", "age": 1, "roles": ["admin"]}
    await fails("UNAUTHENTICATED", session, CREATE, input=admin)
    checked("gql: the schema, and errors with their codes and fields")


async def over_websocket(http, socket):
    FOLLOW.variable_values = {"after": 0}
    following = socket.subscribe(FOLLOW)
    users = []
    async for answer in following:
        users.append(renamed(answer["users"]))
        if len(users) == TASK["count"]:
            break
    listed("gql over WebSocket", users)
    await following.aclose()
    # Those who are there already come first, so it is there before the next user is created.
    count = (await execute(http, COUNT))["userCount"]
    FOLLOW.variable_values = {"after": count - 1}
    following = socket.subscribe(FOLLOW)
    last = (await anext(following))["users"]["userId"]
    expect(last == count, f"the last user is {last}, not {count}")
    fresh = {"name": "Grace", "email": "grace@example.com", "age": 85, "roles": ["user"]}
    created = (await execute(http, CREATE, input=fresh))["createUser"]
    live = (await anext(following))["users"]
    expect(live == created, f"{live} in place of {created}")
    await following.aclose()
    checked("gql: a subscription sees a user who was created afterwards")


async def main():
    address = f"{TASK['http']}/graphql"
    http = AIOHTTPTransport(url=f"http://{address}", timeout=TIMEOUT)
    socket = WebsocketsTransport(
        url=f"ws://{address}",
        subprotocols=[WebsocketsTransport.GRAPHQLWS_SUBPROTOCOL],
    )
    # Fetches the schema, and checks each query by it before it is sent.
    async with Client(transport=http, fetch_schema_from_transport=True) as http_session:
        await over_http(http_session)
        async with Client(transport=socket) as socket_session:
            await over_websocket(http_session, socket_session)


asyncio.run(asyncio.wait_for(main(), TIMEOUT))
