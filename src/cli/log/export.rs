//! SHELL. Writes a log out in lines of JSON, as much of it as can be read.

use std::io;

use anyhow::bail;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use roomcast::{
    log::{Files, Publication, Query, RoomInfo, Store},
    room::{persisted::Head, stream::Entry, types::Epoch},
};
use serde_json::value::RawValue;

use super::{AT_ONCE, BYTES, Line};

/// Writes rooms to `out`. What can't be read is left out, and said, one range after the other: a backup is wanted
/// most when something is damaged.
pub(super) struct Export<Out, Say, Tick> {
    pub out: Out,
    /// Is told of everything that is left out.
    pub say: Say,
    /// Is called for each page, with how many publications it had.
    pub tick: Tick,
    /// Publications that could not be read.
    pub lost: u64,
    /// What else could not be: what is known of a room beside its publications.
    pub lost_heads: u64,
}

impl<Out: io::Write, Say: FnMut(String), Tick: FnMut(usize)> Export<Out, Say, Tick> {
    pub fn new(out: Out, say: Say, tick: Tick) -> Self {
        Self { out, say, tick, lost: 0, lost_heads: 0 }
    }

    /// Writes a room.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn room<F: Files>(
        &mut self,
        store: &mut Store<F>,
        info: &RoomInfo,
        head: Option<Head>,
    ) -> anyhow::Result<()> {
        let head = match head {
            Some(head) => head,
            None if info.headed => {
                self.lost_heads += 1;
                (self.say)(format!(
                    "{}: what is known of it beside its publications can't be read: it gets another epoch",
                    info.name
                ));
                let mut epoch = [0; 8];
                getrandom::fill(&mut epoch)?;
                Head::lost(Epoch(u64::from_be_bytes(epoch)))
            }
            None => {
                (self.say)(format!("{}: it is not complete, and left out", info.name));
                return Ok(());
            }
        };
        let line = Line {
            room: info.name.to_string(),
            offset: None,
            time: None,
            data: None,
            epoch: Some(head.line.epoch.to_string()),
            first: Some(info.first),
            record: STANDARD.encode(head.to_bytes()),
        };
        writeln!(self.out, "{}", serde_json::to_string(&line)?)?;
        self.publications(store, info)
    }

    fn publications<F: Files>(
        &mut self,
        store: &mut Store<F>,
        info: &RoomInfo,
    ) -> anyhow::Result<()> {
        let (mut next, mut count) = (info.first, AT_ONCE);
        // From where on nothing could be read, and why.
        let mut gap: Option<(u64, String)> = None;
        while next < info.next {
            let since = next.checked_sub(1);
            let query = Query { since, reverse: false, count, bytes: BYTES };
            let page = match store.read(&info.name, &query) {
                Ok(page) => page,
                // It may be one of them: which, is found out.
                Err(_) if count > 1 => {
                    count = count.div_ceil(10);
                    continue;
                }
                Err(why) => {
                    gap.get_or_insert((next, why.to_string()));
                    next += 1;
                    (self.tick)(0);
                    continue;
                }
            };
            if let Some(first) = page.entries.first() {
                self.told_gap(info, gap.take(), first.offset);
            }
            for it in &page.entries {
                write_publication(&mut self.out, &info.name, it)?;
                next = it.offset.saturating_add(1);
            }
            (self.tick)(page.entries.len());
            count = AT_ONCE;
            if let Some((from, end)) = page.damaged {
                gap.get_or_insert((from, "damaged".to_owned()));
                next = end.max(next);
            } else if page.entries.is_empty() {
                break;
            }
        }
        self.told_gap(info, gap, info.next);
        Ok(())
    }

    fn told_gap(&mut self, info: &RoomInfo, gap: Option<(u64, String)>, end: u64) {
        let Some((from, why)) = gap else { return };
        self.lost += end.saturating_sub(from);
        (self.say)(format!(
            "{}: publications {from} to {} can't be read, and are left out: {why}",
            info.name,
            end.saturating_sub(1)
        ));
    }

    /// Ends it.
    ///
    /// # Errors
    /// If it can't be written, or something was left out that could not be read.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.out.flush()?;
        let Self { lost, lost_heads, .. } = self;
        if lost + lost_heads > 0 {
            bail!(
                "the export is not complete: {lost} publications, and what is known of {lost_heads} rooms beside \
                 theirs, could not be read. Everything else is in it"
            );
        }
        Ok(())
    }
}

fn write_publication(out: &mut impl io::Write, room: &str, it: &Publication) -> anyhow::Result<()> {
    let entry = Entry::from_bytes(it.offset, &it.bytes);
    let data = entry.map(|entry| entry.publication.data.clone()).unwrap_or_default();
    let data: Option<&RawValue> = serde_json::from_slice(&data).ok();
    let line = Line {
        room: room.to_owned(),
        offset: Some(it.offset),
        time: Some(it.time),
        data,
        epoch: None,
        first: None,
        record: STANDARD.encode(&it.bytes),
    };
    writeln!(out, "{}", serde_json::to_string(&line)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use roomcast::log::{File, Op, Options, disk::Directory};
    use serde_json::Value;

    use super::{super::*, *};

    struct Scratch(PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn scratch(name: &str) -> Scratch {
        let name = format!("roomcast-export-{name}-{}", std::process::id());
        Scratch(std::env::temp_dir().join(name))
    }

    /// A log with a room that has so many publications.
    fn filled(scratch: &Scratch, count: u64) {
        let directory = Directory::open(&scratch.0).expect("nobody has it");
        let (mut store, _) = Store::open(directory, Options::default(), 7).expect("it opens");
        let head = Head::lost(Epoch(9)).to_bytes();
        store.commit(&[Op::Head { room: "room", bytes: &head }]).expect("written");
        for offset in 1..=count {
            let publication = roomcast::room::types::Publication {
                offset,
                data: format!("\"number {offset:05}\"").into(),
                ..Default::default()
            };
            let bytes = Entry { publication: publication.into(), ..Entry::default() }.to_bytes();
            let append = Op::Append { room: "room", offset, time: offset, bytes: &bytes };
            store.commit(&[append]).expect("written");
        }
        store.close().expect("synced");
    }

    fn damage(scratch: &Scratch, offset: u64) {
        let path = scratch.0.join(File::Segment(1).to_string());
        let mut bytes = fs::read(&path).expect("it is there");
        let data = format!("number {offset:05}").into_bytes();
        let at = bytes.windows(data.len()).position(|it| it == data).expect("it is there");
        bytes[at] ^= 1;
        fs::write(path, bytes).expect("written");
    }

    /// The offsets of an export, what was said, its pages, and how it ended.
    fn export(scratch: &Scratch) -> (Vec<u8>, Vec<String>, usize, anyhow::Result<()>) {
        let (mut store, _) = open(&scratch.0).expect("it opens");
        let (mut out, mut said, mut pages) = (Vec::new(), Vec::new(), 0);
        let mut export = Export::new(&mut out, |it| said.push(it), |_| pages += 1);
        let bar = ProgressBar::hidden();
        let look = |store: &mut Disk, info: &RoomInfo, head| export.room(store, info, head);
        each_room(&mut store, None, &bar, look).expect("written");
        let ended = export.end();
        (out, said, pages, ended)
    }

    fn offsets(lines: &[u8]) -> Vec<u64> {
        let lines = std::str::from_utf8(lines).expect("text").lines();
        let lines = lines.map(|it| serde_json::from_str::<Value>(it).expect("JSON"));
        lines.filter_map(|it| it["offset"].as_u64()).collect()
    }

    #[test]
    fn a_publication_that_is_damaged_is_left_out_and_said_and_all_others_are_exported() {
        let scratch = scratch("damaged");
        filled(&scratch, 2_500);
        for offset in [7, 8, 1_200, 2_500] {
            damage(&scratch, offset);
        }
        let (out, said, pages, ended) = export(&scratch);
        let expected = (1..2_500).filter(|it| ![7, 8, 1_200].contains(it));
        assert_eq!(offsets(&out), Vec::from_iter(expected));
        let ranges = said.iter().map(|it| it.split(" can't").next().unwrap_or_default());
        assert_eq!(
            Vec::from_iter(ranges),
            [
                "room: publications 7 to 8",
                "room: publications 1200 to 1200",
                "room: publications 2500 to 2500"
            ]
        );
        assert!(pages >= 4, "the bar moved {pages} times");
        let error = ended.expect_err("it is not complete").to_string();
        assert!(error.contains("4 publications"), "{error}");
        // What is behind the last gap can be imported: there are no holes in a room.
        let other = super::tests::scratch("imported");
        let imported = import_lines(&other.0, None, &out[..]);
        imported.expect("imported");
        let (out, _, _, ended) = export(&other);
        ended.expect("complete");
        assert_eq!(offsets(&out), Vec::from_iter(1_201..2_500));
    }

    #[test]
    fn a_whole_log_is_exported_in_silence() {
        let scratch = scratch("whole");
        filled(&scratch, 3);
        let (out, said, _, ended) = export(&scratch);
        ended.expect("complete");
        assert_eq!((offsets(&out), said), (vec![1, 2, 3], vec![]));
    }

    #[test]
    fn a_publication_is_told_for_people_too() {
        let entry = Entry {
            publication: roomcast::room::types::Publication {
                offset: 3,
                data: "{\"a\":1}".into(),
                ..Default::default()
            }
            .into(),
            ..Entry::default()
        };
        let it = Publication { offset: 3, time: 9, bytes: entry.to_bytes().to_vec() };
        let mut out = Vec::new();
        write_publication(&mut out, "a", &it).expect("written");
        let line: Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!((&line["data"]["a"], &line["time"]), (&1.into(), &9.into()));
        let read = read_line(&String::from_utf8_lossy(&out)).expect("read");
        assert!(
            matches!(read, (room, Record::Publication(3, 9, bytes)) if room == "a" && bytes == it.bytes)
        );
    }
}
