// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's end of the agent in the guest (`guest/agent.sh` has the protocol).

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::Result;

/// How long an answer may take unless told otherwise. Emulation on a busy machine is slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// A stream on which no read outlasts a moment.
pub struct Timed {
    stream: UnixStream,
    deadline: Instant,
}

impl Timed {
    pub fn new(stream: UnixStream, patience: Duration) -> BufReader<Self> {
        BufReader::new(Self { stream, deadline: Instant::now() + patience })
    }

    /// From now on, reads and writes end within `patience`.
    pub fn renew(&mut self, patience: Duration) -> std::io::Result<()> {
        self.deadline = Instant::now() + patience;
        self.stream.set_write_timeout(Some(patience))
    }

    pub fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::new(ErrorKind::TimedOut, "no answer in time"));
        }
        self.stream.set_read_timeout(Some(left))?;
        match self.stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                Err(Error::new(ErrorKind::TimedOut, "no answer in time"))
            }
            other => other,
        }
    }
}

/// What a command in the guest printed (both outputs), and its exit code.
#[derive(Debug, PartialEq)]
pub struct Done {
    pub code: i32,
    pub output: String,
}

/// The agent of one boot.
pub struct Guest {
    port: BufReader<Timed>,
}

impl Guest {
    /// Waits until the agent says that it is ready.
    pub fn meet(stream: UnixStream, patience: Duration) -> Result<Self> {
        let mut port = Timed::new(stream, patience);
        let said = line(&mut port).map_err(|error| format!("waiting for the agent in the guest: {error}"))?;
        match said.strip_prefix("READY ") {
            Some(_) => Ok(Self { port }),
            None => Err(format!("the agent in the guest said {said:?} instead of READY")),
        }
    }

    /// Runs a shell command; its failing is an answer, not an error.
    pub fn run(&mut self, command: &str) -> Result<Done> {
        self.run_within(PATIENCE, command)
    }

    /// [`run`](Self::run) with another patience. After it ran out, this guest is of no use but to be cut off.
    pub fn run_within(&mut self, patience: Duration, command: &str) -> Result<Done> {
        let request = format!("RUN {}\n", base64(command.as_bytes()));
        let asked = self.ask(patience, request.as_bytes(), &[]);
        let (code, output) = asked.map_err(|error| format!("running `{command}` in the guest: {error}"))?;
        Ok(Done { code, output: String::from_utf8_lossy(&output).into_owned() })
    }

    /// Runs a shell command that must succeed; what it printed.
    pub fn ok(&mut self, command: &str) -> Result<String> {
        let Done { code, output } = self.run(command)?;
        if code == 0 {
            return Ok(output);
        }
        Err(format!("`{command}` failed in the guest (exit code {code}): {}", output.trim()))
    }

    /// Makes `bytes` the executable file `path` in the guest.
    pub fn put(&mut self, bytes: &[u8], path: &str) -> Result<()> {
        let request = format!("PUT {} {}\n", bytes.len(), base64(path.as_bytes()));
        self.file(&format!("writing {path} in the guest"), &request, bytes).map(drop)
    }

    /// What is in the file `path` of the guest.
    pub fn get(&mut self, path: &str) -> Result<Vec<u8>> {
        self.file(&format!("reading {path} in the guest"), &format!("GET {}\n", base64(path.as_bytes())), &[])
    }

    fn file(&mut self, doing: &str, request: &str, bytes: &[u8]) -> Result<Vec<u8>> {
        match self.ask(PATIENCE, request.as_bytes(), bytes) {
            Ok((0, answer)) => Ok(answer),
            Ok((_, said)) => Err(format!("{doing}: {}", String::from_utf8_lossy(&said).trim())),
            Err(error) => Err(format!("{doing}: {error}")),
        }
    }

    fn ask(&mut self, patience: Duration, request: &[u8], more: &[u8]) -> std::io::Result<(i32, Vec<u8>)> {
        self.port.get_mut().renew(patience)?;
        self.port.get_mut().write_all(request)?;
        self.port.get_mut().write_all(more)?;
        let head = line(&mut self.port)?;
        let (code, size) = done(&head).ok_or_else(|| Error::other(format!("it answered {head:?}")))?;
        let mut answer = vec![0; size];
        self.port.read_exact(&mut answer)?;
        Ok((code, answer))
    }
}

fn done(head: &str) -> Option<(i32, usize)> {
    let (code, size) = head.strip_prefix("DONE ")?.split_once(' ')?;
    Some((code.parse().ok()?, size.parse().ok()?))
}

/// The next line, without its end; the end of the stream is an error.
pub fn line(port: &mut BufReader<Timed>) -> std::io::Result<String> {
    let mut line = String::new();
    if port.read_line(&mut line)? == 0 {
        return Err(Error::new(ErrorKind::UnexpectedEof, "the machine went away"));
    }
    Ok(line.trim_end().to_owned())
}

/// RFC 4648 section 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let padded = [group[0], *group.get(1).unwrap_or(&0), *group.get(2).unwrap_or(&0)];
        let word = u32::from_be_bytes([0, padded[0], padded[1], padded[2]]);
        for place in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= group.len() { letter.into() } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_the_rfc_has_it() {
        let pairs = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, text) in pairs {
            assert_eq!(base64(plain.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn the_head_of_an_answer() {
        assert_eq!(done("DONE 1 0"), Some((1, 0)));
        assert_eq!(done("READY x"), None);
    }

    #[test]
    fn silence_ends_in_time() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let start = Instant::now();
        let told = Guest::meet(ours, Duration::from_millis(50)).err().unwrap();
        assert!(told.contains("no answer in time"), "{told}");
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}
