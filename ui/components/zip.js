// Takes ZIP files apart in the browser, so that the server never opens one. Sizes are those that the
// archive declares; whatever inflates beyond its own is refused. Source: PKWARE APPNOTE 6.3.10.

const ZIP_DEPTH = 2; // an archive in an archive, and no deeper
const ZIP_TAIL = 66_000; // the end record with the longest comment
const ZIP_LIST = 64 << 20;

/** The files of an archive: name, size, a function that gives the content, and why it cannot. */
async function zipEntries(blob) {
  const tailStart = Math.max(0, blob.size - ZIP_TAIL);
  const tail = new DataView(await blob.slice(tailStart).arrayBuffer());
  let at = tail.byteLength - 22;
  while (at >= 0 && tail.getUint32(at, true) !== 0x06054b50) at -= 1;
  if (at < 0) throw new Error("This ZIP file is not complete. Copy it again.");
  let count = tail.getUint16(at + 10, true);
  let length = tail.getUint32(at + 12, true), start = tail.getUint32(at + 16, true);
  const locator = at - 20;
  if ((start === 0xffffffff || count === 0xffff) && locator >= 0 && tail.getUint32(locator, true) === 0x07064b50) {
    const large = Number(tail.getBigUint64(locator + 8, true));
    const end = new DataView(await blob.slice(large, large + 56).arrayBuffer());
    count = Number(end.getBigUint64(32, true));
    length = Number(end.getBigUint64(40, true));
    start = Number(end.getBigUint64(48, true));
  }
  if (length > ZIP_LIST || start + length > blob.size) throw new Error("This ZIP file is damaged. Copy it again.");
  return zipList(blob, new DataView(await blob.slice(start, start + length).arrayBuffer()), count);
}

function zipList(blob, list, count) {
  const entries = [];
  for (let at = 0, i = 0; i < count && at + 46 <= list.byteLength; i += 1) {
    if (list.getUint32(at, true) !== 0x02014b50) throw new Error("This ZIP file is damaged. Copy it again.");
    const [nameLength, extraLength, commentLength] = [28, 30, 32].map((o) => list.getUint16(at + o, true));
    const name = new TextDecoder().decode(new Uint8Array(list.buffer, at + 46, nameLength));
    const sizes = { packed: list.getUint32(at + 20, true), size: list.getUint32(at + 24, true), at: list.getUint32(at + 42, true) };
    zipLarge(sizes, new DataView(list.buffer, at + 46 + nameLength, extraLength));
    const secret = list.getUint16(at + 8, true) & 1, method = list.getUint16(at + 10, true);
    const why = secret ? "protected by a password: unpack the archive first"
      : method !== 0 && method !== 8 ? "compressed in a rare way: unpack the archive first" : "";
    if (!name.endsWith("/"))
      entries.push({ name, why, size: sizes.size, stream: () => zipStream(blob, sizes, method) });
    at += 46 + nameLength + extraLength + commentLength;
  }
  return entries;
}

/** Sizes over 4 GB are in an extra field. */
function zipLarge(sizes, extra) {
  for (let at = 0; at + 4 <= extra.byteLength;) {
    const kind = extra.getUint16(at, true), end = at + 4 + extra.getUint16(at + 2, true);
    at += 4;
    if (kind === 1)
      for (const name of ["size", "packed", "at"])
        if (sizes[name] === 0xffffffff && at + 8 <= Math.min(end, extra.byteLength)) {
          sizes[name] = Number(extra.getBigUint64(at, true));
          at += 8;
        }
    at = end;
  }
}

async function zipStream(blob, sizes, method) {
  const local = new DataView(await blob.slice(sizes.at, sizes.at + 30).arrayBuffer());
  if (local.byteLength < 30 || local.getUint32(0, true) !== 0x04034b50) throw new Error("The archive is damaged. Copy it again.");
  const start = sizes.at + 30 + local.getUint16(26, true) + local.getUint16(28, true);
  const packed = blob.slice(start, start + sizes.packed).stream();
  let left = sizes.size;
  const counted = new TransformStream({
    transform(piece, out) {
      left -= piece.byteLength;
      if (left < 0) throw new Error("It is larger than the archive says: the archive is damaged. Copy it again.");
      out.enqueue(piece);
    },
  });
  return (method ? packed.pipeThrough(new DecompressionStream("deflate-raw")) : packed).pipeThrough(counted);
}

/** The whole of a stream, which is named where it cannot be inflated. */
async function wholeOf(stream) {
  const reader = stream.getReader(), pieces = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return new Blob(pieces);
      pieces.push(value);
    }
  } catch (error) {
    throw error instanceof TypeError ? new Error("The archive is damaged. Copy it again.") : error;
  }
}

/** The first bytes of a stream; the rest is not inflated. */
async function firstBytes(stream, most) {
  const reader = stream.getReader(), pieces = [];
  let length = 0;
  while (length < most) {
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
    length += value.byteLength;
  }
  await reader.cancel().catch(() => {});
  return new Uint8Array(await new Blob(pieces).slice(0, most).arrayBuffer());
}
