//! Redis Streams: a stream for each room, written to in a pipeline over one connection.

use super::Publication;
use anyhow::{Context, Result, bail};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Publications that a room keeps, about, as with Roomcast.
const HISTORY: &str = "100";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection.
#[derive(Debug)]
pub struct Redis {
    stream: BufReader<TcpStream>,
}

impl Redis {
    /// Connects.
    pub fn open(server: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(server).context("connecting to Redis")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Publishes in one pipeline. Returns once each is answered for.
    pub fn publish(&mut self, publications: &[Publication<'_>]) -> Result<()> {
        let all: Vec<u8> = publications.iter().flat_map(add).collect();
        self.stream.get_mut().write_all(&all)?;
        (0..publications.len()).try_for_each(|_| self.answer())
    }

    /// Each answer is the id of an entry, in two lines.
    fn answer(&mut self) -> Result<()> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if !line.starts_with('$') {
            bail!("Redis refused a publication: {line:?}");
        }
        line.clear();
        self.stream.read_line(&mut line)?;
        Ok(())
    }
}

fn add(publication: &Publication<'_>) -> Vec<u8> {
    let room = format!("room:{}", publication.room);
    let words = ["XADD", &room, "MAXLEN", "~", HISTORY, "*", "data", publication.data];
    let word = |it: &&str| format!("${}\r\n{it}\r\n", it.len());
    let body: String = words.iter().map(word).collect();
    format!("*{}\r\n{body}", words.len()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publication_is_a_command_as_redis_reads_it() {
        let bytes = add(&Publication { room: 7, data: "hi" });
        let text = String::from_utf8(bytes).expect("text");
        assert!(text.starts_with("*8\r\n$4\r\nXADD\r\n$6\r\nroom:7\r\n"), "{text}");
        assert!(text.ends_with("$4\r\ndata\r\n$2\r\nhi\r\n"), "{text}");
    }
}
