"""tuspy: an upload in several pieces, gone on with by another uploader, with checksums."""

import io
import json

from peer import CHUNK, IMAGE, TASK, checked, expect, new_id, told
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError

client = TusClient(f"http://{TASK['http']}/v1/uploads")


def metadata(image_id):
    return {
        "filename": "tuspy photo.jpg",
        "filetype": "image/jpeg",
        "image_id": image_id,
        "run": TASK["run"],
        "transmitter": "tuspy",
    }


def receipt_of(uploader, image_id):
    headers = uploader.request.response_headers
    expect(headers.get("content-location") == f"/v1/images/{image_id}", f"headers {headers}")
    return json.loads(headers["pantelegraph-receipt"])


def uploader_of(data, **options):
    return client.uploader(file_stream=io.BytesIO(data), chunk_size=CHUNK, **options)


for checksum in (False, True):
    image_id = new_id()
    first = uploader_of(IMAGE, metadata=metadata(image_id), upload_checksum=checksum)
    first.upload(stop_at=len(IMAGE) // 2)
    expect(0 < first.offset < len(IMAGE), f"half of it is {first.offset} bytes")
    # Knows the address only, as after a restart, and asks for the offset.
    second = uploader_of(IMAGE, url=first.url, upload_checksum=checksum)
    expect(second.offset == first.offset, f"{second.offset} bytes there, {first.offset} sent")
    second.upload()
    expect(second.offset == len(IMAGE), f"ended at {second.offset}")
    told("tuspy, with checksums" if checksum else "tuspy", receipt_of(second, image_id))
    # A client that lost the last answer learns that nothing is left to do.
    third = uploader_of(IMAGE, url=first.url)
    expect(third.offset == len(IMAGE), f"afterwards the offset is {third.offset}")
checked("tuspy: a finished upload stays finished")

broken = metadata(new_id()) | {"run": TASK["run"] + "-hostile"}
try:
    uploader_of(IMAGE[: len(IMAGE) // 2], metadata=broken).upload()
except TusCommunicationError as error:
    expect(error.status_code == 422, f"a truncated image was answered by {error.status_code}")
    problem = json.loads(error.response_content)
    expect(problem["status"] == 422 and problem["detail"], f"the problem is {problem}")
    checked("tuspy: a truncated JPEG is refused with a problem document")
else:
    expect(False, "a truncated image was accepted")
