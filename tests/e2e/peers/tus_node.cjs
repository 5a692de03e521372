// tus-js-client: pieces, an abort and a resume, and creation with upload.
"use strict";

const tus = require("tus-js-client");
const { task, image, newId, told, checked, expect, fail } = require("./peer.cjs");

const CHUNK = 200_000;

function upload(options, act = () => {}) {
  return new Promise((resolve, reject) => {
    const imageId = newId();
    let receipt;
    const requests = [];
    const upload = new tus.Upload(image, {
      endpoint: `http://${task.http}/v1/uploads`,
      chunkSize: CHUNK,
      retryDelays: null,
      metadata: {
        filename: "tus-js photo.jpg",
        filetype: "image/jpeg",
        image_id: imageId,
        run: task.run,
        transmitter: "tus-js-client",
      },
      onAfterResponse: (request, response) => {
        requests.push(request.getMethod());
        receipt = response.getHeader("Pantelegraph-Receipt") ?? receipt;
      },
      onChunkComplete: (size, accepted) => act(upload, accepted),
      onError: reject,
      onSuccess: () => resolve({ imageId, receipt: JSON.parse(receipt ?? "null"), requests }),
      ...options,
    });
    upload.start();
  });
}

async function main() {
  const plain = await upload({});
  told("tus-js-client", plain.receipt);
  expect(plain.requests[0] === "POST", `the requests were ${plain.requests}`);
  expect(plain.requests.length === 1 + Math.ceil(image.length / CHUNK), `${plain.requests}`);

  let aborted = false;
  const resumed = await upload({}, (upload, accepted) => {
    if (aborted || accepted < image.length / 2) return;
    aborted = true;
    // Ends the request that is under way; start() asks for the offset and goes on.
    upload.abort().then(() => upload.start()).catch(fail);
  });
  told("tus-js-client, after an abort", resumed.receipt);
  expect(resumed.requests.includes("HEAD"), `the offset was not asked for: ${resumed.requests}`);

  const together = await upload({ uploadDataDuringCreation: true });
  told("tus-js-client, created with data", together.receipt);

  const terminated = await new Promise((resolve, reject) => {
    let stopped = false;
    upload({ onSuccess: () => reject(new Error("the upload was to be ended")) }, (upload) => {
      if (stopped) return;
      stopped = true;
      upload.abort(true).then(() => resolve(upload.url), reject);
    }).catch(reject);
  });
  const head = await fetch(terminated, { method: "HEAD", headers: { "Tus-Resumable": "1.0.0" } });
  expect([404, 410].includes(head.status), `an ended upload is answered by ${head.status}`);
  checked("tus-js-client: an upload that is terminated is gone");
}

main().catch(fail);
