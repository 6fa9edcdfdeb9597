#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""A second reader of DPSR stores, after docs/FORMAT.md; shares no code with dpsr. Reads only, plain Python.

  reader.py [--base BYTES --size BYTES] IMAGE info
  reader.py [--base BYTES --size BYTES] IMAGE export N OUT|--hash       (OUT "-" is standard output)
  reader.py [--base BYTES --size BYTES] IMAGE check

Digests need BLAKE3, so image chunks, which have no other checksum, are not looked at by `check`.
"""
import argparse, functools, hashlib, json, os, struct, sys, uuid, zlib

MIB, PAGE, CHUNK, PER_AREA, COMPANION, TABLE = 1 << 20, 4096, 65536, 4096, 13 * 4096, 1 << 40
STORE_TYPE = uuid.UUID("8211c1b7-ec90-4655-b1a2-77d47f0e28cb").bytes_le
STATES = {1: "filling", 2: "clean", 3: "updating", 4: "no-valid-generation", 5: "live", 6: "live-without-history",
          7: "returning", 8: "live-aside"}

class Damaged(Exception): """Something is not as docs/FORMAT.md says."""

def require(holds, why):
    if not holds:
        raise Damaged(why)

def number(raw):
    return int.from_bytes(raw, "little")

# CRC-32C. Data is cut into columns of ROWS bytes, and each step advances the sums of all columns by one byte:
# bytes.translate looks up a table for every column at once, one long integer takes the exclusive or. Then the
# columns are joined: the sum so far moves on by the length of a column, and that column's sum is added.
ROWS, STEP, JOIN = 128, list(range(256)), [[b << 8 * k for b in range(256)] for k in range(4)]
for _ in range(8):
    STEP = [word >> 1 ^ (0x82F63B78 if word & 1 else 0) for word in STEP]
for _ in range(ROWS):
    JOIN = [[word >> 8 ^ STEP[word & 255] for word in part] for part in JOIN]
PLANES = [bytes(word >> 8 * k & 255 for word in STEP) for k in range(4)]

@functools.lru_cache(64)  # most of many a disk is zeros
def crc32c(data):  # of at least four bytes
    width = -(-len(data) // ROWS)  # leading zeros change nothing in a sum that starts at zero
    data = bytes(width * ROWS - len(data)) + bytes(byte ^ 255 for byte in data[:4]) + data[4:]
    sums, total = [0] * 5, 0
    for row in range(ROWS):
        at = (number(data[row::ROWS]) ^ sums[0]).to_bytes(width, "little")
        sums = [number(at.translate(PLANES[k])) ^ sums[k + 1] for k in range(4)] + [0]
    for a, b, c, d in zip(*(plane.to_bytes(width, "little") for plane in sums[:4])):
        total = (JOIN[0][total & 255] ^ JOIN[1][total >> 8 & 255] ^ JOIN[2][total >> 16 & 255]
                 ^ JOIN[3][total >> 24] ^ (a | b << 8 | c << 16 | d << 24))
    return total ^ 0xFFFFFFFF

def without(raw, at):
    """`raw` with the checksum at `at` as zeros."""
    return raw[:at] + bytes(4) + raw[at + 4 :]

def frame(raw, magic, location):
    """Checks the frame of a metadata block; its tag and its payload."""
    require(raw[:4] == magic, f"it has no magic number {magic.decode()}")
    version, at, tag, _, crc = struct.unpack_from("<IQQII", raw, 4)
    require(crc32c(without(raw, 28)) == crc, "its checksum does not match")
    require(version == 1 and at == location, f"it is of version {version} and place {at}, not {location}")
    return tag, raw[32:]

def bad_pages(raw, first):
    """The pages of a chunk of the digest table that do not check out."""
    for i in range(16):
        page = raw[i * PAGE : (i + 1) * PAGE]
        magic, crc, found = struct.unpack_from("<4sIQ", page)
        good = magic == b"DPdg" and found == first + i and crc32c(without(page, 4)) == crc
        if page != bytes(PAGE) and not good:
            yield first + i

class Fields:
    """Takes little-endian fields off the front of some bytes."""
    def __init__(self, raw):
        self.raw, self.at = raw, 0
    def take(self, size):
        require(self.at + size <= len(self.raw), "its fields run past its end")
        self.at += size
        return self.raw[self.at - size : self.at]
    def __getattr__(self, name):  # u8, u16, u32, u64
        return number(self.take(int(name[1:]) // 8))
    def text(self):
        return self.take(self.u16).decode()
    def uuid(self):
        return str(uuid.UUID(bytes=self.take(16)))
    def list(self, each):
        return [each() for _ in range(self.u32)]
    def run(self):
        return self.u32, self.u32, self.u32

class Disk:
    def __init__(self, path):
        self.fd = os.open(path, os.O_RDONLY)
        self.size = os.lseek(self.fd, 0, os.SEEK_END)
    def read(self, at, size):
        parts = []
        while size:
            parts.append(os.pread(self.fd, min(size, 1 << 30), at))
            require(parts[-1], f"the disk ends at {at}")
            at, size = at + len(parts[-1]), size - len(parts[-1])
        return b"".join(parts)
    def find_store(self):
        for lba in (512, 4096):
            for header in (lba, self.size // lba * lba - lba):  # the primary table, else the backup
                for entry in self.partitions(lba, header):
                    if entry[:16] == STORE_TYPE:
                        first, last = struct.unpack_from("<QQ", entry, 32)
                        return first * lba, (last + 1 - first) * lba
        raise Damaged("no partition table names a DPSR store; give --base and --size")
    def partitions(self, lba, at):
        raw = self.read(at, 92)
        magic, _, size, crc = struct.unpack_from("<8sIII", raw)
        if magic != b"EFI PART" or size != 92 or zlib.crc32(without(raw, 16)) != crc:
            return []
        table, count, each, crc = struct.unpack_from("<QIII", raw, 72)
        if number(raw[24:32]) * lba != at or each != 128 or count > 1024:
            return []
        entries = self.read(table * lba, count * each)
        good = zlib.crc32(entries) == crc
        return [entries[i : i + each] for i in range(0, len(entries), each)] if good else []

class Store:
    def __init__(self, disk, base, size):
        self.disk, self.base, self.size, self.bad, copies = disk, base, size // PAGE * PAGE, [], []
        for i, at in enumerate((MIB, 4 * MIB, self.size - 2 * MIB)):
            try:
                raw = disk.read(base + at, PAGE)
                copies.append((*frame(raw, b"DPsb", at), i))
            except (Damaged, OSError) as why:
                self.bad.append(f"superblock copy {i}: {why}")
        require(copies, "no superblock copy is good")
        self.sequence, payload, _ = max(copies, key=lambda copy: copy[0])
        for sequence, other, i in copies:
            if sequence != self.sequence:
                self.bad.append(f"superblock copy {i}: it is stale, {sequence} and not {self.sequence}")
            require(sequence != self.sequence or other == payload, "superblock copies of one sequence differ")
            require(other[16:32] == payload[16:32], "superblock copies name different stores")
        self.unpack_superblock(Fields(payload))
        self.unpack_index(Fields(self.read_index(self.root)))
        self.agree()
        if self.state == "updating":
            self.read_index(self.before)
    def unpack_superblock(self, f):
        require(f.u64 == 0, "it needs features this reader does not know")
        self.writer_features, self.uuid, self.pair = f.u64, f.uuid(), f.uuid()
        store, self.extent, self.slot = f.u64, f.u64, f.u64
        require(store == self.size, f"the store was made for {store} bytes, not {self.size}")
        sound = self.extent.bit_count() == 1 and 1 << 18 <= self.extent <= 1 << 24
        require(sound and self.slot % CHUNK == 0 < self.slot <= store // 8, "its geometry makes no sense")
        self.start = -(-(8 * MIB + 2 * self.slot) // MIB) * MIB
        self.extents = (store - 4 * MIB - 2 * self.slot - self.start) // self.extent
        require(self.extents > 0, "there is no room for an extent")
        kind, self.words = f.u32, [f.u64 for _ in range(4)]
        require(kind in STATES, f"it is in state {kind}, which this reader does not know")
        self.state, self.current = STATES[kind], self.words[0] if kind in (2, 3, 5, 7, 8) else None
        self.before, self.root = [(f.u32, f.u64, f.u64, f.u32) for _ in range(2)]
        self.owner = {"boot": f.uuid(), "pid": f.u32, "host": f.text()}
    def read_index(self, root):
        (slot, version, length, crc), payload = root, b""
        require(slot < 2 and length <= self.slot // PAGE * (PAGE - 32), "its index has no place")
        for i in range(-(-length // (PAGE - 32))):
            good = None
            for copy, start in enumerate((8 * MIB, self.start + self.extents * self.extent)):
                at = start + slot * self.slot + i * PAGE
                try:
                    tag, part = frame(self.disk.read(self.base + at, PAGE), b"DPix", at)
                    require(tag == version ^ crc << 32, "it is of another version")
                    good = good or part
                except (Damaged, OSError) as why:
                    self.bad.append(f"index slot {slot} copy {copy} block {i}: {why}")
            require(good, f"both copies of index block {i} are bad")
            payload += good
        require(crc32c(payload[:length]) == crc, "the index does not match the superblock")
        return payload[:length]
    def unpack_index(self, f):
        def volume():
            made = dict(id=f.text(), name=f.text(), label=f.text(), start=f.u64, size=f.u64, flags=f.u8)
            require(made["flags"] < 4, f"volume {made['id']} has unknown flags")
            return made
        def image():
            return dict(id=f.u32, disk=f.u64, block=f.u64, volumes=f.list(volume), runs=f.list(f.run))
        def record():
            made = dict(generation=f.u64, time=f.u64, map=f.u32, flags=f.u8, times=f.list(lambda: f.u64),
                        root=f.take(32).hex(), mode=f.u8, sizes=[f.u64 for _ in range(4)], undo=None)
            require(made["flags"] < 16, f"generation {made['generation']} has unknown flags")
            if made["flags"] & 2:
                made["undo"] = Undo(self, made["generation"], f.u64, f.u64, f.u64, f.list(f.run))
            return made
        require(f.uuid() == self.uuid, "the index belongs to another store")
        self.secret, self.primary, self.table = f.take(32), f.text(), f.list(f.run)
        images = f.list(image)
        self.maps = {one["id"]: one for one in images}
        require(images and len(images) == len(self.maps), "there is no map, or two of one number")
        self.records = f.list(record)
        self.objects = f.list(lambda: (f.u16, f.list(lambda: f.u8), f.list(f.run)))
        self.scrub = f.u64, f.u64
        require(f.at == len(f.raw), "something follows the last field of the index")
    def agree(self):
        """What a reader may rely on, but for who owns which extent, which `check` looks at."""
        undo = [record["undo"] for record in self.records]
        dense = [self.table] + [one.runs for one in undo if one]
        for runs in dense + [one["runs"] for one in self.maps.values()] + [runs for _, _, runs in self.objects]:
            end = 0
            for at, _, count in runs:
                require(count and (at == end if runs in dense else at >= end), "the runs of an object are out of order")
                end = at + count
        numbers = [record["generation"] for record in self.records]
        require(numbers == sorted(set(numbers)), "generations are out of order")
        for record in self.records:
            whole = self.maps.get(record["map"])
            fits = whole and len(record["times"]) == len(whole["volumes"])
            require(fits, f"generation {record['generation']} has no map, or one of other volumes")
        if self.state == "clean":
            require(numbers[-1:] == self.words[:1] and not undo[-1], "the last record is another than the newest")
        if self.state == "updating":
            right = numbers[-2:] == self.words[:2] and undo[-2] and not undo[-1]
            require(right and undo[-2].nonce == self.words[2], "the last two records are not those of the sync")
    def place(self, runs, at):
        """Where byte `at` of an object stands on the disk (None in a hole), and for how long that goes on."""
        wanted = at // self.extent
        for first, extent, count in runs:
            if first <= wanted < first + count:
                offset = at - first * self.extent
                return self.base + self.start + extent * self.extent + offset, count * self.extent - offset
            if first > wanted:
                return None, first * self.extent - at
        return None, 1 << 62
    def parts(self, runs, at, end):
        while at < end:
            there, length = self.place(runs, at)
            yield {"from": at, "offset": there, "length": min(length, end - at)}
            at += length
    def read(self, runs, at, size):
        """Bytes of an object; zeros in holes."""
        found = ((part["offset"], part["length"]) for part in self.parts(runs, at, at + size))
        return b"".join(bytes(size) if there is None else self.disk.read(there, size) for there, size in found)
    def listed(self):
        return [record for record in self.records if self.current and record["generation"] <= self.current]
    def exceptions(self, generation):
        """What a generation has elsewhere than in image and table: chunk -> undo store, number, checksum."""
        later = [record for record in self.records if record["generation"] >= generation]
        found = {}
        for i, undo in enumerate(record["undo"] for record in later[:-1]):
            maps = {record["map"] for record in later[: i + 1]}
            for entry, chunk, crc in undo.entries() if undo else ():
                places = {self.place(self.maps[one]["runs"], chunk * CHUNK)[0] for one in maps}
                if chunk >= TABLE or len(places) == 1 and None not in places:
                    found.setdefault(chunk, (undo, entry, crc))
        if self.state in ("live", "returning"):
            maps = {record["map"] for record in later}
            kept = Kept(self, next(runs for kind, _, runs in self.objects if kind == 1))
            for entry, chunk in kept.entries():
                if len({self.place(self.maps[one]["runs"], chunk * CHUNK)[0] for one in maps}) == 1:
                    found.setdefault(chunk, (kept, entry, None))
        return found
    def export(self, generation, write):
        record = next((r for r in self.listed() if r["generation"] == generation), None)
        require(record, f"there is no generation {generation}")
        whole, found, at = self.maps[record["map"]], self.exceptions(generation), 0
        saved = sorted(chunk for chunk in found if chunk < TABLE)[::-1]
        while at < whole["disk"]:
            left = whole["disk"] - at
            if saved and saved[-1] * CHUNK == at:
                undo, entry, crc = found[saved.pop()]
                raw = undo.data(entry)
                require(crc is None or crc32c(raw) == crc, f"{undo.name} saved chunk {entry}: its checksum does not match")
            else:
                until = saved[-1] * CHUNK - at if saved else left
                raw = self.read(whole["runs"], at, min(4 * MIB, left, until))
            write(raw[:left])
            at += len(raw)
    def info(self):
        newest = self.maps[max(self.maps)]
        parts = lambda v: list(self.parts(newest["runs"], v["start"], v["start"] + v["size"]))
        geometry = {name: getattr(self, name) for name in ("base", "size", "extent", "slot", "start", "extents")}
        names = "uuid", "pair", "state", "words", "sequence", "owner", "primary", "scrub", "bad"
        return {name: getattr(self, name) for name in names} | {
            "geometry": geometry, "disk": newest["disk"], "objects": [kind for kind, _, _ in self.objects],
            "generations": [{**r, "undo": r["undo"].count if r["undo"] else 0, "quiet": not r["flags"] & 4,
                             "one_instant": not r["flags"] & 8} for r in self.listed()],
            "volumes": [{**v, "left_out": bool(v["flags"] & 1), "parts": parts(v)} for v in newest["volumes"]]}
    def check(self):
        yield from self.bad
        undo, owners = [record["undo"] for record in self.records if record["undo"]], {}
        objects = [("digest table", self.table)] + [(f"object {i}", o[2]) for i, o in enumerate(self.objects)]
        images = [(None, whole["runs"]) for whole in self.maps.values()]
        for name, runs in objects + [(one.name, one.runs) for one in undo] + images:
            for at, extent, count in runs:
                if extent + count > self.extents:
                    yield f"extent {extent} of {name or 'the image'} lies outside the store"
                for i in range(count):  # maps may share an extent, at the same extent of the image
                    if owners.setdefault(extent + i, (name, at + i)) != (name, at + i):
                        yield f"extent {extent + i} belongs to two: {owners[extent + i][0]} and {name}"
        yield from (problem for one in undo for problem in one.check())
        known = self.current and max(whole["disk"] for whole in self.maps.values())
        known = self.words[0] if known is None else -(-known // CHUNK)  # only what was copied has digests
        try:
            saved = self.exceptions(self.current) if self.state == "updating" else {}
        except Damaged:
            return  # told above; what the table would be rolled back to is not known
        for i in range(-(-known // 4080)):
            one, entry, _ = saved.get(TABLE + i, (None, None, None))
            raw = one.data(entry) if one else self.read(self.table, i * CHUNK, CHUNK)
            yield from (f"digest page {page}: it does not check out" for page in bad_pages(raw, i * 16))

class Undo:
    def __init__(self, store, generation, nonce, count, image_count, runs):
        self.nonce, self.count, self.image_count, self.runs = nonce, count, image_count, runs
        self.name, self.areas = f"undo store of generation {generation}", -(-count // PER_AREA)
        self.kernel_part = (1 + self.areas + count + (count % PER_AREA == 0)) * CHUNK
        self.read = lambda at, size: store.read(runs, at, size)
    def data(self, entry):
        return self.read((2 + entry + entry // PER_AREA) * CHUNK, CHUNK)
    def area(self, k):
        """The exceptions of area k: entry, chunk, checksum."""
        at, first = self.kernel_part + k * COMPANION, k * PER_AREA
        tag, payload = frame(self.read(at, COMPANION), b"DPun", at)
        area, area_crc, count = struct.unpack_from("<QII", payload)
        ours = tag == self.nonce and area == k and count == min(PER_AREA, self.count - first)
        require(ours and not any(payload[16 + 12 * count :]), "its companion is of another area or sync")
        raw, last = self.read((1 + k * (PER_AREA + 1)) * CHUNK, CHUNK), -1
        require(crc32c(raw) == area_crc, "it does not match its checksum")
        require(not any(raw[16 * count :]), "something follows its last exception")
        for entry in range(first, first + count):
            chunk, new = struct.unpack_from("<QQ", raw, 16 * (entry - first))
            sound = chunk > last and (chunk >= TABLE) == (entry >= self.image_count)
            require(sound and new == 2 + entry + entry // PER_AREA, f"exception {entry} is out of place")
            yield entry, chunk, struct.unpack_from("<I", payload, 16 + 12 * (entry - first))[0]
            last = chunk
    def entries(self):
        for k in range(self.areas):
            try:
                yield from self.area(k)
            except Damaged as why:
                raise Damaged(f"{self.name} area {k}: {why}") from None
    def check(self):
        if self.read(0, CHUNK) != struct.pack("<4sIII", b"SnAp", 1, 1, CHUNK // 512).ljust(CHUNK, b"\0"):
            yield f"{self.name}: its header is not as written"
        if self.count % PER_AREA == 0 and any(self.read((1 + self.areas * (PER_AREA + 1)) * CHUNK, CHUNK)):
            yield f"{self.name}: its closing area is not zero"
        for k in range(self.areas):
            try:
                for entry, chunk, crc in self.area(k):
                    raw = self.data(entry)
                    if crc32c(raw) != crc:
                        yield f"{self.name} saved chunk {entry}: its checksum does not match"
                    elif chunk >= TABLE:
                        for page in bad_pages(raw, (chunk - TABLE) * 16):
                            yield f"{self.name} saved digest page {page}: it does not check out"
            except Damaged as why:
                yield f"{self.name} area {k}: {why}"

class Kept:
    """What a machine that runs from the image has overwritten: written by the kernel, without checksums."""
    def __init__(self, store, runs):
        self.read, self.name = lambda at, size: store.read(runs, at, size), "live store"
        self.size = sum(count for _, _, count in runs) * store.extent
    def data(self, entry):
        return self.read(entry * CHUNK, CHUNK)
    def entries(self):
        header = struct.unpack("<4sIII", self.read(0, 16))
        if header[0] == bytes(4):
            return
        require(header == (b"SnAp", 1, 1, CHUNK // 512), "the live store's header is not as written")
        at = CHUNK
        while at + CHUNK <= self.size:
            for chunk, new in struct.iter_unpack("<QQ", self.read(at, CHUNK)):
                if new == 0:
                    return
                yield new, chunk
            at += (PER_AREA + 1) * CHUNK

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("--base", "--size"):
        parser.add_argument(name, type=int)
    parser.add_argument("image")
    parser.add_argument("command", choices=("info", "export", "check"))
    parser.add_argument("generation", type=int, nargs="?")
    parser.add_argument("out", nargs="?")
    parser.add_argument("--hash", action="store_true")
    asked = parser.parse_args()
    if asked.command == "export" and (asked.generation is None or not (asked.hash or asked.out)):
        parser.error("export needs a generation, and OUT or --hash")
    disk = Disk(asked.image)
    place = disk.find_store() if asked.base is None else (asked.base, asked.size or disk.size - asked.base)
    store = Store(disk, *place)
    if store.state == "updating":
        print(f"interrupted: read as if rolled back to generation {store.current}", file=sys.stderr)
    if asked.command == "info":
        print(json.dumps(store.info(), indent=1))
    elif asked.command == "check":
        problems = [print(problem) for problem in store.check()]
        return 1 if problems else 0
    elif asked.hash:
        store.export(asked.generation, (digest := hashlib.sha256()).update)
        print(digest.hexdigest())
    else:
        with sys.stdout.buffer if asked.out == "-" else open(asked.out, "wb") as out:
            store.export(asked.generation, out.write)

if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Damaged, UnicodeDecodeError, OSError) as why:
        sys.exit(f"{sys.argv[0]}: {why}")
