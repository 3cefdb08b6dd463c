//! Directories of rooms on disk that are there before a server starts: written by the server's own `log import`.
//!
//! In: a server, and how many publications in how many rooms. Out: a data directory with them.

use crate::server::Settings;
use crate::target::Node;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The namespace of such rooms.
pub const NAMESPACE: &str = "stored";

/// Its configuration: nothing is too old or too many to be kept.
pub const CONFIG: &str = "[[channel.namespaces]]\nname = \"stored\"\nlog = \"disk\"\nhistory_size = 100000000\n\
                          history_ttl = \"365days\"\nforce_recovery = true\n";

/// The room that the others' publications are copies of.
const SAMPLE: &str = "stored:sample";

/// A room of that namespace.
pub fn room(number: u64) -> String {
    format!("{NAMESPACE}:{number}")
}

/// What a log has of a publication, and of its room: all rooms are to have the same.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The epoch that the rooms begin in.
    pub epoch: String,
    head: Value,
    publication: Value,
}

impl Sample {
    /// Publishes once through a server, and says where that is.
    pub fn publish(node: &Node, api_key: &str, data: &str) -> Result<()> {
        let body = json!({"channel": SAMPLE, "data": data});
        node.call("publish", api_key, &body).map(drop)
    }

    /// Takes it out of the log of a server that has ended.
    pub fn of(settings: &Settings, data_dir: &Path) -> Result<Self> {
        let mut command = log_command(settings, "export", data_dir);
        let output = command.output().context("exporting a log")?;
        ensure!(output.status.success(), "a log could not be exported ({})", output.status);
        let lines = String::from_utf8(output.stdout).context("an export that is no text")?;
        let lines: Vec<Value> = (lines.lines().map(serde_json::from_str).collect::<Result<_, _>>())
            .context("a line of an export that is no JSON")?;
        let of_room = |it: &&Value| it["room"] == SAMPLE;
        let with_offset = |wanted: bool| {
            let mut lines = lines.iter().filter(of_room);
            lines.find(|it| it["offset"].is_null() != wanted).cloned()
        };
        let (head, publication) = with_offset(false)
            .zip(with_offset(true))
            .context("an export without the room that was published into")?;
        let epoch = head["epoch"].as_str().context("an export without an epoch")?.to_owned();
        Ok(Self { epoch, head, publication })
    }

    /// Writes rooms into a directory: of each its name, and how many publications it has.
    pub fn fill(
        &self,
        settings: &Settings,
        data_dir: &Path,
        rooms: impl Iterator<Item = (String, u64)>,
    ) -> Result<()> {
        let mut command = log_command(settings, "import", data_dir);
        let mut import = command.stdin(Stdio::piped()).spawn().context("importing a log")?;
        let written = self.write(&mut import, rooms);
        drop(import.stdin.take());
        let status = import.wait().context("importing a log")?;
        ensure!(status.success(), "a log could not be imported ({status})");
        written
    }

    fn write(&self, to: &mut Child, rooms: impl Iterator<Item = (String, u64)>) -> Result<()> {
        let mut out = BufWriter::new(to.stdin.as_mut().context("an import without an input")?);
        let (record, time) = (&self.publication["record"], &self.publication["time"]);
        let head = &self.head["record"];
        for (name, count) in rooms {
            let name = Value::from(name);
            writeln!(out, "{{\"room\":{name},\"first\":1,\"record\":{head}}}")?;
            for offset in 1..=count {
                writeln!(
                    out,
                    "{{\"room\":{name},\"offset\":{offset},\"time\":{time},\"record\":{record}}}"
                )?;
            }
        }
        out.flush().context("writing lines to import")
    }
}

fn log_command(settings: &Settings, what: &str, data_dir: &Path) -> Command {
    let mut command = Command::new(&settings.path);
    command.args(["log", what, "--data-dir"]).arg(data_dir).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::inherit());
    command
}
