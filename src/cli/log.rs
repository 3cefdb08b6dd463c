//! SHELL. The commands about a log on disk, of a node that does not run: what is in it, whether it is sound, out of it
//! and into another.

mod export;

use std::{
    collections::HashMap,
    io::{self, BufRead, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::{Args, Subcommand};
use export::Export;
use indicatif::ProgressBar;
use roomcast::{
    log::{
        Damage, File, Files, Op, Opened, Options, Query, RoomInfo, Store, disk::Directory,
        unchanged::Unchanged,
    },
    room::{persisted::Head, stream::Entry},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Rooms, and publications, that are looked at together.
const AT_ONCE: usize = 1_000;
/// Bytes of a page, and of what is written together.
const BYTES: usize = 4 << 20;

/// What to do with a log.
#[derive(Subcommand)]
pub enum Log {
    /// Say which rooms are in it, how large they are, and where they stand.
    Inspect {
        #[command(flatten)]
        which: Which,
        /// Write a line of JSON for each room, and nothing else.
        #[arg(long)]
        json: bool,
    },
    /// Read all of it, and say what is damaged. Exits with 1 if anything is.
    Verify {
        #[command(flatten)]
        which: Which,
    },
    /// Write all of it to the standard output, in lines of JSON. What is damaged is left out and named; exits with 1
    /// then.
    Export {
        #[command(flatten)]
        which: Which,
    },
    /// Read such lines from the standard input into a log. Rooms that are there already go on, where the lines do; one
    /// of which publications are missing in the lines begins after them.
    Import {
        #[command(flatten)]
        which: Which,
    },
}

/// Which log.
#[derive(Args)]
pub struct Which {
    /// The directory of the log (`disk.data_dir`). Its node must not run.
    #[arg(long, default_value = "data")]
    data_dir: PathBuf,
    /// Only this room.
    #[arg(long)]
    room: Option<String>,
}

/// A line of an export.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    room: String,
    /// Of a publication: its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    /// When it was published, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<u64>,
    /// Its data, if that is JSON: for those who read this.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    /// Of a room: its epoch, and where it begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<u64>,
    /// All of it, as the log has it, in Base64: what an import takes.
    record: String,
}

impl Log {
    /// Does it.
    ///
    /// # Errors
    /// If the log can't be opened or read, or is damaged.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Inspect { which, json } => inspect(&which, json),
            Self::Verify { which } => verify(&which),
            Self::Export { which } => export(&which),
            Self::Import { which } => import(&which),
        }
    }
}

/// A log that is looked at, and stays as it is.
type Disk = Store<Unchanged<Directory>>;

fn open(data_dir: &Path) -> anyhow::Result<(Disk, Opened)> {
    let there = data_dir.join(File::Identity.to_string());
    ensure!(there.exists(), "{}: there is no log in this directory", data_dir.display());
    open_files(data_dir, Unchanged::new(Directory::open(data_dir)?))
}

fn open_files<F: Files>(data_dir: &Path, files: F) -> anyhow::Result<(Store<F>, Opened)> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)?;
    let opened = Store::open(files, Options::default(), u128::from_be_bytes(id));
    opened.with_context(|| format!("the log in {}", data_dir.display()))
}

/// Calls `look` for each room, with a bar on the screen that says how far it is.
fn each_room(
    store: &mut Disk,
    only: Option<&str>,
    bar: &ProgressBar,
    mut look: impl FnMut(&mut Disk, &RoomInfo, Option<Head>) -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    let (mut after, mut count) = (None, 0);
    loop {
        let rooms = store.heads(after.as_deref(), AT_ONCE)?;
        let Some((last, _)) = rooms.last() else { break };
        after = Some(last.name.to_string());
        for (info, head) in rooms {
            // What begins so is no room, but what the node notes for itself.
            if info.name.starts_with('\0') && !info.name.starts_with("\0\0")
                || only.is_some_and(|it| it != &*info.name)
            {
                continue;
            }
            count += 1;
            let head = head.as_deref().and_then(Head::from_bytes);
            look(store, &info, head)?;
            bar.set_message(format!("{count} rooms"));
            bar.tick();
        }
    }
    bar.finish_and_clear();
    Ok(count)
}

fn inspect(which: &Which, json: bool) -> anyhow::Result<()> {
    let (mut store, opened) = open(&which.data_dir)?;
    let mut out = io::stdout().lock();
    let (mut publications, bar) = (0, ProgressBar::new_spinner());
    let rooms = each_room(&mut store, which.room.as_deref(), &bar, |_, info, head| {
        let count = info.next.saturating_sub(info.first);
        publications += count;
        let epoch = head.map(|it| it.line.epoch.to_string());
        let (room, first, next) = (&info.name, info.first, info.next);
        let (bytes, newest) = (info.bytes, info.newest);
        if json {
            let line = serde_json::json!({
                "room": room, "epoch": epoch, "first": first, "offset": next.saturating_sub(1),
                "publications": count, "bytes": bytes, "newest": newest,
            });
            writeln!(out, "{line}")?;
        } else {
            let epoch = epoch.as_deref().unwrap_or("unknown: it is not complete");
            let top = next.saturating_sub(1);
            writeln!(
                out,
                "{room}: {count} publications ({first} to {top}), {bytes} bytes, epoch {epoch}"
            )?;
        }
        Ok(())
    })?;
    if !json {
        let stats = store.stats();
        writeln!(
            out,
            "{rooms} rooms, {publications} publications; {} files with {} bytes, of which {} are in use",
            stats.segments, stats.bytes, stats.live
        )?;
    }
    complain(&opened.damage)
}

fn complain(damage: &[Damage]) -> anyhow::Result<()> {
    for it in damage {
        eprintln!("damaged: {it:?}");
    }
    match damage.len() {
        0 => Ok(()),
        many => bail!(
            "{many} things are damaged, and are not served. Another node may have them: move the directory out \
             of the way, and the node fetches what others have"
        ),
    }
}

fn verify(which: &Which) -> anyhow::Result<()> {
    let (mut store, opened) = open(&which.data_dir)?;
    let segments = store.segments();
    let bar = ProgressBar::new(segments.len() as u64);
    let mut damage = opened.damage;
    for segment in &segments {
        damage.extend(store.verify(*segment)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let (mut needed, all) = (Vec::new(), damage.len());
    for it in damage {
        if is_needed(&mut store, &it)? {
            needed.push(it);
        }
    }
    complain(&needed)?;
    let repaired = match all {
        0 => String::new(),
        all => format!(
            "; {all} damaged publications were written again since, or are not kept any more"
        ),
    };
    println!("{} files were read, and nothing that is needed is damaged{repaired}", segments.len());
    Ok(())
}

/// Whether what is damaged is kept still, and was not written again.
fn is_needed(store: &mut Disk, damage: &Damage) -> anyhow::Result<bool> {
    let Damage::Publications { room, first, end } = damage else { return Ok(true) };
    let mut since = first.saturating_sub(1);
    while since + 1 < *end {
        let count = usize::try_from(end - since - 1).unwrap_or(AT_ONCE).min(AT_ONCE);
        let query = Query { since: Some(since), reverse: false, count, bytes: BYTES };
        let page = store.read(room, &query)?;
        if page.damaged.is_some_and(|(from, _)| from < *end) {
            return Ok(true);
        }
        let Some(last) = page.entries.last() else { break };
        since = last.offset;
    }
    Ok(false)
}

fn export(which: &Which) -> anyhow::Result<()> {
    let (mut store, _) = open(&which.data_dir)?;
    let out = io::BufWriter::new(io::stdout().lock());
    let bar = ProgressBar::new_spinner();
    let say = |line: String| bar.suspend(|| eprintln!("{line}"));
    let mut publications = 0;
    let tick = |page| {
        publications += page;
        bar.set_message(format!("{publications} publications"));
        bar.tick();
    };
    let mut export = Export::new(out, say, tick);
    let look = |store: &mut Disk, info: &RoomInfo, head| export.room(store, info, head);
    each_room(&mut store, which.room.as_deref(), &bar, look)?;
    export.end()
}

/// What a line asks to be written.
enum Record {
    Head(Vec<u8>, u64),
    Publication(u64, u64, Vec<u8>),
    /// What is before is missing.
    Beginning(u64),
}

fn import(which: &Which) -> anyhow::Result<()> {
    let count = import_lines(&which.data_dir, which.room.as_deref(), io::stdin().lock())?;
    println!("{count} lines were read into {}", which.data_dir.display());
    Ok(())
}

fn import_lines(data_dir: &Path, only: Option<&str>, lines: impl BufRead) -> anyhow::Result<u64> {
    let (mut store, _) = open_files(data_dir, Directory::open(data_dir)?)?;
    // The offset that follows in each room.
    let mut next = HashMap::<String, u64>::new();
    let (mut waiting, mut bytes, mut count) = (Vec::<(String, Record)>::new(), 0, 0_u64);
    let bar = ProgressBar::new_spinner();
    for (number, line) in lines.lines().enumerate() {
        let line = line?;
        let read = read_line(&line).with_context(|| format!("line {}", number + 1))?;
        if only.is_some_and(|it| *it != read.0) {
            continue;
        }
        bytes += line.len();
        waiting.extend(gap(&read, &mut next));
        waiting.push(read);
        count += 1;
        if bytes >= BYTES {
            write(&mut store, &std::mem::take(&mut waiting))?;
            bytes = 0;
            bar.set_message(format!("{count} lines"));
            bar.tick();
        }
    }
    write(&mut store, &waiting)?;
    store.close()?;
    bar.finish_and_clear();
    Ok(count)
}

/// If publications are missing before this one, what makes its room begin here.
fn gap(
    (room, record): &(String, Record),
    next: &mut HashMap<String, u64>,
) -> Option<(String, Record)> {
    let (offset, follows) = match record {
        Record::Head(_, first) => return next.insert(room.clone(), *first).and(None),
        Record::Publication(offset, ..) => (*offset, offset.saturating_add(1)),
        Record::Beginning(_) => return None,
    };
    let expected = next.insert(room.clone(), follows)?;
    (offset > expected).then(|| {
        let last = offset - 1;
        eprintln!(
            "{room}: publications {expected} to {last} are missing: the room begins after them"
        );
        (room.clone(), Record::Beginning(offset))
    })
}

fn read_line(line: &str) -> anyhow::Result<(String, Record)> {
    let line: Line<'_> = serde_json::from_str(line)?;
    let bytes = STANDARD.decode(&line.record).context("record")?;
    let record = match (line.offset, line.time) {
        (Some(offset), Some(time)) => {
            ensure!(Entry::from_bytes(offset, &bytes).is_some(), "record: it is no publication");
            Record::Publication(offset, time, bytes)
        }
        (None, None) => {
            ensure!(Head::from_bytes(&bytes).is_some(), "record: it is nothing known of a room");
            Record::Head(bytes, line.first.unwrap_or(1))
        }
        _ => bail!("a publication needs both offset and time"),
    };
    Ok((line.room, record))
}

fn write(store: &mut Store<Directory>, records: &[(String, Record)]) -> anyhow::Result<()> {
    let ops: Vec<Op<'_>> = (records.iter())
        .flat_map(|(room, record)| match record {
            Record::Head(bytes, first) => {
                vec![Op::Trim { room, first: *first }, Op::Head { room, bytes }]
            }
            Record::Publication(offset, time, bytes) => {
                vec![Op::Append { room, offset: *offset, time: *time, bytes }]
            }
            Record::Beginning(first) => vec![Op::Trim { room, first: *first }],
        })
        .collect();
    store.commit(&ops)?;
    store.sync()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_none_of_an_export_are_refused_with_what_is_wrong() {
        let cases = [
            ("{}", "missing field `room`"),
            (r#"{"room": "a", "record": "!"}"#, "record"),
            (r#"{"room": "a", "record": "", "offset": 1}"#, "both offset and time"),
            (r#"{"room": "a", "record": "AQ==", "offset": 1, "time": 2}"#, "no publication"),
        ];
        for (line, wrong) in cases {
            let error = read_line(line).err().map(|it| format!("{it:#}"));
            assert!(error.as_ref().is_some_and(|it| it.contains(wrong)), "{line}: {error:?}");
        }
    }
}
