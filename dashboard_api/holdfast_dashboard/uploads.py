"""Reading an upload: multipart/form-data with one file and some fields, in any order."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import IO, Final

from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from holdfast_core.errors import FieldError, InvalidRequest, StoreUnavailable
from holdfast_core.schemas import ContentType, UploadRequest, parse_request

__all__ = ["MAX_FORM_BYTES", "read_upload"]

#: What an upload may have beside the bytes of its file: the fields, and the form's own lines.
MAX_FORM_BYTES: Final = 65_536
MAX_FIELDS: Final = 32
MAX_FIELD_BYTES: Final = 8_192


@asynccontextmanager
async def read_upload(request: Request) -> AsyncGenerator[tuple[UploadRequest, list[str], IO[bytes]]]:
    """The upload, the names of fields that were ignored, and its bytes: an open file, for the time of the block.

    Larger ones wait on disk, not in memory. Raises InvalidRequest, BodyTooLarge, or
    StoreUnavailable where that disk is full.
    """
    form = await _read_form(request)
    try:
        texts: dict[str, str] = {}
        files: list[UploadFile] = []
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name != "file":
                    raise InvalidRequest.of(FieldError("file", "is the only field that may be a file"))
                files.append(value)
            elif name in texts:
                raise InvalidRequest.of(FieldError(name[:64], "is given more than once"))
            else:
                texts[name] = value
        if "file" in texts or len(files) != 1:
            raise InvalidRequest.of(FieldError("file", "is required, once, with a file name and its bytes"))
        if "contentType" not in texts and (told := _content_type(files[0])) is not None:
            texts["contentType"] = told
        upload, ignored = parse_request(UploadRequest, texts)
        yield upload, ignored, files[0].file
    finally:
        await form.close()


async def _read_form(request: Request) -> FormData:
    # Whatever goes wrong in here, the parser closes its files. A body that is too large, or cut off, passes as it is.
    parser = MultiPartParser(
        request.headers, request.stream(), max_files=2, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
    )
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise InvalidRequest.of(FieldError("body", f"is no multipart form: {error.message}")) from None
    except OSError as error:
        raise StoreUnavailable(
            f"The upload cannot wait on this server's disk ({error.strerror or error}). Nothing was kept; free some"
            " room for temporary files and repeat.",
            retry_after=30,
        ) from error
    except (KeyError, UnicodeError):  # the form names its own charset, and some of those raise at everything
        raise InvalidRequest.of(
            FieldError("body", "is no multipart form with a boundary and texts in UTF-8")
        ) from None


_CONTENT_TYPE: Final = TypeAdapter[str](ContentType)


def _content_type(file: UploadFile) -> str | None:
    """What the file's own part says, if that is a content type at all."""
    try:
        return _CONTENT_TYPE.validate_python(file.content_type)
    except ValidationError:
        return None
