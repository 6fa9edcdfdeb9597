// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is in an initramfs image: archives in the "newc" format, one behind the other, of which one may be compressed
//! (kernel's `driver-api/early-userspace/buffer-format`). lsinitrd(1) tells the same, but unpacks all of it several times
//! for each question.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::switch::images::IMAGE;
use crate::error::{Error, Result};
use crate::mount::tool;
use crate::units::MIB;

/// How what is compressed begins, the program that dracut has made it with, and the package that is in: each writes it
/// unpacked for `-d -c`.
const PACKED: [(&[u8], &str, &str); 7] = [
    (b"\x1f\x8b", "gzip", "gzip"),
    (b"BZh", "bzip2", "bzip2"),
    (b"\x5d\0\0", "xz", "xz-utils"),
    (b"\xfd7zXZ\0", "xz", "xz-utils"),
    (b"\x89LZO", "lzop", "lzop"),
    (b"\x02\x21\x4c\x18", "lz4", "lz4"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd"),
];

/// The longest of those beginnings.
const BEGINNING: u64 = 6;

/// Magic, and thirteen numbers of eight hexadecimal digits.
const HEADER: usize = 6 + 13 * 8;
const MAGICS: [&[u8]; 2] = [b"070701", b"070702"];

/// Of the fields of a header: the sizes of the content and of the name.
const SIZE: usize = 6;
const NAME: usize = 11;

/// The name of what ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// How the names of those end into which dracut puts files that are unpacked when they are needed.
const NESTED: &str = "root.img";

/// How long a name may be, its zero included, and a file that is wanted.
const LONGEST: u64 = 4096;
const LARGEST: u64 = MIB;

/// What was found in an image.
#[derive(Debug, PartialEq, Eq)]
pub struct Inside<const N: usize> {
    /// The content of each file that was looked for; empty for all but one of several names of one file.
    pub contents: [Option<Vec<u8>>; N],
    /// Whether an image lies in it, as far as it was read.
    pub is_nested: bool,
}

/// Looks for the files `wanted`, by their paths without `usr/`, until all were found. What is behind a compressed archive is
/// not looked at, as where that ends is known to nobody but its program.
///
/// An error names the image, or the program that should have unpacked it.
pub fn look<const N: usize>(image: &Path, wanted: [&str; N]) -> Result<Inside<N>> {
    let failed = |error: io::Error| Error::device("reading", image.display().to_string(), &torn(error));
    let mut file = BufReader::new(File::open(image).map_err(failed)?);
    let inside = Inside { contents: [const { None }; N], is_nested: false };
    let mut search = Search { wanted: wanted.map(str::to_owned), inside };
    while !search.is_over() && past_zeros(&mut file).map_err(failed)? {
        let start = beginning(&mut file).map_err(failed)?;
        if MAGICS.iter().any(|magic| start.starts_with(magic)) {
            search.in_archive(&mut file, |file, size| file.seek_relative(size)).map_err(failed)?;
            continue;
        }
        let Some((_, program, package)) = PACKED.iter().find(|(magic, ..)| start.starts_with(magic)) else {
            return Err(failed(invalid("it is no archive that the kernel could unpack")));
        };
        let at = file.stream_position().map_err(failed)?;
        let mut packed = file.into_inner();
        packed.seek(SeekFrom::Start(at)).map_err(failed)?;
        let read = |printed| {
            let over = |from: &mut BufReader<_>, size: i64| skip(from, size.unsigned_abs());
            search.in_archive(&mut BufReader::new(printed), over).map(|()| search)
        };
        let read = tool::read_within(IMAGE, program, package, &["-d", "-c"], packed, read);
        search = read.map_err(|error| error.on(image.display().to_string()))?.map_err(failed)?;
        break;
    }
    Ok(search.inside)
}

/// What is looked for, and what of it was there.
struct Search<const N: usize> {
    wanted: [String; N],
    inside: Inside<N>,
}

impl<const N: usize> Search<N> {
    fn is_over(&self) -> bool {
        self.inside.contents.iter().all(Option::is_some)
    }

    /// Reads an archive to its end, or until there is nothing left to look for; `over` skips so many bytes. Of several files
    /// of one name the last one read counts, as for the kernel.
    fn in_archive<R: Read>(
        &mut self,
        from: &mut R,
        over: impl Fn(&mut R, i64) -> io::Result<()>,
    ) -> io::Result<()> {
        while !self.is_over() {
            let mut header = [0; HEADER];
            from.read_exact(&mut header)?;
            if !MAGICS.contains(&&header[..6]) {
                return Err(invalid("a file in it has no header"));
            }
            let (name, size) = (field(&header, NAME)?, field(&header, SIZE)?);
            if !(1..=LONGEST).contains(&name) {
                return Err(invalid("a file in it has no name"));
            }
            let mut text = vec![0; padded(HEADER as u64 + name) as usize - HEADER];
            from.read_exact(&mut text)?;
            // Some pad the name, so that the content begins with a block.
            let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
            let text = String::from_utf8_lossy(text);
            if text == TRAILER {
                return over(from, padded(size).cast_signed());
            }
            let path = text.strip_prefix("./").unwrap_or(&text);
            let path = path.strip_prefix("usr/").unwrap_or(path);
            self.inside.is_nested |= path.ends_with(NESTED);
            match self.wanted.iter().position(|wanted| wanted == path) {
                Some(_) if size > LARGEST => return Err(invalid("a file in it is larger than it could be")),
                Some(at) => {
                    let mut content = vec![0; padded(size) as usize];
                    from.read_exact(&mut content)?;
                    content.truncate(size as usize);
                    self.inside.contents[at] = Some(content);
                }
                None => over(from, padded(size).cast_signed())?,
            }
        }
        Ok(())
    }
}

/// Headers and contents begin at multiples of four.
fn padded(size: u64) -> u64 {
    size.next_multiple_of(4)
}

fn field(header: &[u8; HEADER], number: usize) -> io::Result<u64> {
    let digits = &header[6 + number * 8..][..8];
    let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'));
    let value = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    value.map(u64::from).ok_or_else(|| invalid("a file in it has no size"))
}

/// Whether there is something behind the zeros that come next.
fn past_zeros(from: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let there = from.fill_buf()?;
        let zeros = there.iter().take_while(|byte| **byte == 0).count();
        let (is_end, is_over) = (there.is_empty(), zeros < there.len());
        from.consume(zeros);
        if is_end || is_over {
            return Ok(is_over);
        }
    }
}

/// What comes next, of which nothing is taken.
fn beginning(file: &mut BufReader<File>) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    file.take(BEGINNING).read_to_end(&mut start)?;
    file.seek_relative(-(start.len() as i64))?;
    Ok(start)
}

fn skip(from: &mut impl Read, size: u64) -> io::Result<()> {
    let skipped = io::copy(&mut from.take(size), &mut io::sink())?;
    if skipped == size { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// The end of an image where something is missing, in other words.
fn torn(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => invalid("it ends in the middle of an archive"),
        _ => error,
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::{Command, Stdio};

    use super::super::cpio;
    use super::*;

    const MODULES: &str = "lib/dracut/modules.txt";
    const RECORD: &str = "etc/dpsr/system.toml";

    /// Two archives, as a processor's microcode lies before the rest, and what is in them.
    fn archives() -> (Vec<u8>, Vec<u8>) {
        let early =
            cpio::archive(&[("early_cpio", b"1\n"), ("kernel/x86/microcode/AuthenticAMD.bin", &[7; 4099])]);
        let files: [cpio::File<'_>; 3] = [
            ("./etc/dpsr/system.toml", b"[dpsr]\n"),
            ("usr/bin/sh", &[9; 70_001]),
            ("usr/lib/dracut/modules.txt", b"base\ndpsr\n"),
        ];
        (early, cpio::archive(&files))
    }

    fn image(content: &[u8]) -> tempfile::NamedTempFile {
        let image = tempfile::NamedTempFile::new().unwrap();
        fs::write(image.path(), content).unwrap();
        image
    }

    fn asked(content: &[u8]) -> Result<[Option<Vec<u8>>; 3]> {
        look(image(content).path(), [MODULES, RECORD, "etc/dpsr/other.toml"]).map(|inside| inside.contents)
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let file = image(content);
        let mut pack = Command::new("gzip");
        let packed =
            pack.arg("-c").stdin(File::open(file.path()).unwrap()).stderr(Stdio::inherit()).output().unwrap();
        assert!(packed.status.success());
        packed.stdout
    }

    #[test]
    fn files_are_found_in_any_archive_whether_it_is_compressed_or_not() {
        let wanted = [Some(b"base\ndpsr\n".to_vec()), Some(b"[dpsr]\n".to_vec()), None];
        let (early, rest) = archives();
        for zeros in [0, 4, 512, 20_000] {
            let gap = vec![0; zeros];
            assert_eq!(
                asked(&[&early[..], &gap, &rest, &gap].concat()).unwrap(),
                wanted,
                "{zeros} zeros between"
            );
            assert_eq!(
                asked(&[&early[..], &gap, &gzip(&rest)].concat()).unwrap(),
                wanted,
                "{zeros} zeros before gzip"
            );
        }
        assert_eq!(asked(&rest).unwrap(), wanted);
        // Wherever what is read at once ends.
        for zeros in (0..2 * 8192).step_by(4) {
            assert_eq!(
                asked(&[&early[..], &vec![0; zeros], &rest].concat()).unwrap(),
                wanted,
                "{zeros} zeros"
            );
        }
        let behind = cpio::archive(&[("etc/dpsr/other.toml", b"x")]);
        assert_eq!(
            asked(&[gzip(&rest), vec![0; 512], behind].concat()).unwrap(),
            wanted,
            "behind gzip nobody looks"
        );
        assert_eq!(asked(&early).unwrap(), [const { None }; 3]);
        assert_eq!(asked(&[]).unwrap(), [const { None }; 3]);
    }

    #[test]
    fn who_has_found_all_reads_no_further() {
        let (early, rest) = archives();
        let end = rest.windows(TRAILER.len()).position(|part| part == TRAILER.as_bytes()).unwrap() - HEADER;
        for behind in [&rest[end..], b"", b"garbage"] {
            for torn in [[&early[..], &rest[..end], behind, b"garbage"].concat(), gzip(&rest[..end])] {
                assert!(asked(&torn).is_err());
                let inside = look(image(&torn).path(), [MODULES]).unwrap();
                assert_eq!(inside, Inside { contents: [Some(b"base\ndpsr\n".to_vec())], is_nested: false });
            }
        }
    }

    #[test]
    fn what_is_no_archive_is_told() {
        let told = |content: &[u8]| asked(content).unwrap_err().to_string().replace(char::is_numeric, "");
        let (_, rest) = archives();
        assert!(told(b"MZ, a program").contains("it is no archive that the kernel could unpack"));
        for short in [&rest[..109], &rest[..2000], &gzip(&rest[..2000])] {
            assert!(told(short).contains("it ends in the middle of an archive"), "{}", told(short));
        }
        let of_program = told(&gzip(&rest)[..100]);
        assert!(of_program.contains("gzip: stdin: unexpected end of file"), "{of_program}");
        // Whatever is wrong with a header, that is said, or nothing is found; and nothing else happens.
        let head = cpio::archive(&[("lib/dracut/modules.txt", b"base\n")]);
        for at in 0..head.len() {
            for bit in 0..8 {
                let mut rotten = head.clone();
                rotten[at] ^= 1 << bit;
                asked(&rotten).map_or_else(|error| assert!(!error.to_string().is_empty()), drop);
            }
        }
        let header =
            head.windows(MODULES.len()).position(|part| part == MODULES.as_bytes()).unwrap() - HEADER;
        let with = |number: usize, digits: &[u8; 8]| {
            let mut other = head.clone();
            other[header + 6 + number * 8..][..8].copy_from_slice(digits);
            other
        };
        assert!(told(&with(SIZE, b"FFFFFFFF")).contains("a file in it is larger than it could be"));
        assert!(told(&with(SIZE, b"0000000g")).contains("a file in it has no size"));
        for name in [b"00000000", b"FFFFFFFF"] {
            assert!(told(&with(NAME, name)).contains("a file in it has no name"));
        }
    }
}
