// ws and protobufjs, which reads proto/ itself.
"use strict";

const protobuf = require("protobufjs");
const WebSocket = require("ws");
const { task, image, newId, told, checked, expect, fail } = require("./peer.cjs");

const CHUNK = 256 * 1024;

async function main() {
  const root = await new protobuf.Root().load(task.proto, { keepCase: true });
  const ClientMessage = root.lookupType("pantelegraph.transfer.v1.ClientMessage");
  const ServerMessage = root.lookupType("pantelegraph.transfer.v1.ServerMessage");
  const options = { perMessageDeflate: false };
  const socket = new WebSocket(`ws://${task.http}/v1/stream`, ["pantelegraph.v1"], options);
  const put = (message) =>
    socket.send(ClientMessage.encode(ClientMessage.fromObject(message)).finish());
  const imageId = newId();

  socket.on("error", fail);
  socket.on("open", () => put({ hello: { protocol_version: 1, transmitter: "ws" } }));
  socket.on("message", (data) => {
    const decoded = ServerMessage.toObject(ServerMessage.decode(data), {
      longs: Number,
      enums: String,
      defaults: true,
      oneofs: true,
    });
    if (decoded.kind === "welcome") {
      expect(decoded.welcome.credit >= image.length, "the image is larger than the first credit");
      const begin = { image_id: imageId, size: image.length, run: task.run, name: "ws.jpg" };
      put({ begin: { ...begin, content_type: "image/jpeg", sequence: 1, attempt: 1 } });
      for (let offset = 0; offset < image.length; offset += CHUNK) {
        const piece = image.subarray(offset, offset + CHUNK);
        put({ chunk: { image_id: imageId, offset, data: piece } });
      }
      put({ end: { image_id: imageId } });
    } else if (decoded.kind === "receipt") {
      const { status, digest, durability, ...receipt } = decoded.receipt;
      expect(digest.algorithm === "DIGEST_ALGORITHM_XXH3_128", digest.algorithm);
      told("ws", {
        ...receipt,
        status: status.replace("RECEIPT_STATUS_", "").toLowerCase(),
        digest: `xxh3-128:${Buffer.from(digest.value).toString("hex")}`,
        durability: durability.replace("DURABILITY_", "").toLowerCase(),
      });
      put({ goodbye: { reason: "done" } });
    } else {
      expect(decoded.kind === "credit", `the receiver says ${JSON.stringify(decoded)}`);
    }
  });
  socket.on("close", (code) => {
    expect(code === 1000, `closed with ${code}`);
    checked("ws: goodbye is answered by close 1000");
  });
}

main().catch(fail);
