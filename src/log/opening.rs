//! Opening a directory: what a crash has left is tidied up, what is damaged is told.
//!
//! What comes in: the files. What goes out: a [`Store`], and what was found; or an [`OpenError`] that names the
//! file and what to do, and then nothing was changed.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::{
    batch::Batch,
    error::{Damage, OpenError, ReadError},
    files::{Fault, FaultKind, File, Files, read_exact},
    filter,
    index::{self, Summary, Unusable},
    part::Part,
    record::{self, Kind, seed, sum, u32_at},
    retention::Sweep,
    segment::{self, Cut, Manifest, START, Start, Walk},
    store::{Active, Options, Sealed, Stats, Store},
};

const IDENTITY: usize = 32;
const IDENTITY_MAGIC: &[u8; 8] = b"RClogDIR";

/// What was found when a directory was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Opened {
    /// The directory's id. Every one has another.
    pub id: u128,
    /// There was no log.
    pub fresh: bool,
    /// Bytes cut off: what was being written, and was not synced, when the process ended.
    pub torn: u32,
    /// Records of it that were whole, but followed a bad one.
    pub dropped: usize,
    /// Indexes that were made again.
    pub indexed: usize,
    /// Files that were removed, since nothing needed them.
    pub removed: Vec<String>,
    /// Files that are none of a log's. They were left alone.
    pub strangers: Vec<String>,
    /// What is damaged.
    pub damage: Vec<Damage>,
}

/// The files of a directory.
struct Listing {
    id: Option<u128>,
    segments: BTreeMap<u64, Option<Start>>,
    indexes: BTreeSet<u64>,
    strangers: Vec<String>,
}

/// The segment that was written last.
struct Tail {
    number: u64,
    begun: u64,
    bytes: Vec<u8>,
    walk: Walk,
    cut: Cut,
    /// Those that were there when it was begun, but for those that are not needed any more; none if that is
    /// damaged.
    others: Option<BTreeMap<u64, u32>>,
    /// It was being made when the process ended, and has nothing: it is to be removed.
    unborn: Option<u64>,
}

impl<F: Files> Store<F> {
    /// Opens a directory. If it is empty, it gets this id.
    pub fn open(files: F, options: Options, id: u128) -> Result<(Self, Opened), OpenError> {
        Self::open_knowing(files, options, id, (0, 0))
    }

    /// The same, knowing up to where a segment was synced, whatever is in it.
    pub(super) fn open_knowing(
        mut files: F,
        options: Options,
        id: u128,
        synced: (u64, u32),
    ) -> Result<(Self, Opened), OpenError> {
        let listing = list(&files)?;
        let Some(id) = listing.id else { return Self::create(files, options, id, listing) };
        let mut opened = Opened { id, ..Opened::default() };
        let Some(tail) = tail(&files, id, &listing, &options, synced)? else {
            return Self::create(files, options, id, listing);
        };
        if let Some(others) = &tail.others
            && let Some(missing) = others.keys().find(|it| !listing.segments.contains_key(it))
        {
            return Err(OpenError::Missing { file: File::Segment(*missing).to_string() });
        }
        // One of those may be taken for one that was being made, and removed.
        if tail.others.as_ref().is_some_and(|it| it.range(tail.number..).next().is_some()) {
            let file = File::Segment(tail.number).to_string();
            return Err(OpenError::Damaged { file, why: "it says that it follows a later one" });
        }
        // From here on files are changed.
        let sealed = open_sealed(&mut files, id, &listing, &tail, &options, &mut opened)?;
        let hurt = tail.is_hurt();
        cut(&mut files, &tail, &options, hurt, &mut opened)?;
        // Only now, since what says that nothing needs them may have been in memory only.
        tidy(&mut files, &listing, &tail, &mut opened)?;
        opened.strangers = listing.strangers;
        let active = active(&tail, id, &mut opened);
        let highest = active.parts.values().map(Part::highest).max().unwrap_or(0);
        let highest = sealed.values().map(|it| it.summary.highest).max().unwrap_or(0).max(highest);
        let number = highest.saturating_add(1).max(tail.begun);
        let mut store = Self::new(files, options, id, active);
        (store.number, store.sealed) = (number, sealed);
        if hurt {
            store.roll().map_err(|error| {
                let fault = Fault { kind: FaultKind::Io, why: error.to_string() };
                OpenError::failed("sealing", File::Segment(tail.number))(fault)
            })?;
        }
        Ok((store, opened))
    }

    fn new(files: F, options: Options, id: u128, active: Active) -> Self {
        Self {
            files,
            id,
            options,
            number: 1,
            active,
            sealed: BTreeMap::new(),
            rooms: HashMap::new(),
            ring: VecDeque::new(),
            batch: Batch::default(),
            closed: None,
            torn: false,
            sweep: Sweep::default(),
            damage: Vec::new(),
            told: HashMap::new(),
            stats: Stats::default(),
        }
    }

    fn create(
        mut files: F,
        options: Options,
        id: u128,
        listing: Listing,
    ) -> Result<(Self, Opened), OpenError> {
        let mut identity = IDENTITY_MAGIC.to_vec();
        identity.extend_from_slice(&segment::VERSION.to_le_bytes());
        identity.extend_from_slice(&id.to_le_bytes());
        identity.extend_from_slice(&sum(0, &identity).to_le_bytes());
        let failed = || OpenError::failed("making", File::Identity);
        files.create(File::Identity, IDENTITY as u64).map_err(failed())?;
        files.write(File::Identity, 0, &identity).map_err(failed())?;
        files.sync(File::Identity).map_err(failed())?;
        files.sync_dir().map_err(failed())?;
        let mut store = Self::new(files, options, id, Active::new(1, 1, 0));
        let end = store.begin_segment(1, None).map_err(|error| {
            let why = error.to_string();
            failed()(Fault { kind: FaultKind::Io, why })
        })?;
        store.active = Active::new(1, 1, end);
        let strangers = listing.strangers;
        Ok((store, Opened { id, fresh: true, strangers, ..Opened::default() }))
    }
}

fn list(files: &impl Files) -> Result<Listing, OpenError> {
    let names = files.list().map_err(OpenError::failed("listing", File::Identity))?;
    let (segments, indexes) = (BTreeMap::new(), BTreeSet::new());
    let mut listing = Listing { id: None, segments, indexes, strangers: Vec::new() };
    let mut has_identity = false;
    for name in names {
        match File::parse(&name) {
            Some(File::Identity) => has_identity = true,
            Some(File::Segment(number)) => _ = listing.segments.insert(number, None),
            Some(File::Index(number)) => _ = listing.indexes.insert(number),
            None => listing.strangers.push(name),
        }
    }
    for name in &listing.strangers {
        // "7.segment" and "000000000007.segment" are two files for one segment.
        let number = name.strip_suffix(".segment").and_then(|it| it.parse().ok());
        if let Some(number) = number {
            let of = File::Segment(number).to_string();
            return Err(OpenError::Doubled { file: name.clone(), of });
        }
    }
    if has_identity {
        listing.id = identity(files)?;
    }
    let file = File::Identity.to_string();
    if listing.id.is_none() && !listing.segments.is_empty() {
        return Err(match has_identity {
            true => OpenError::Damaged { file, why: "its checksum is wrong" },
            false => OpenError::Missing { file },
        });
    }
    if let Some(id) = listing.id {
        for (number, start) in &mut listing.segments {
            *start = begin(files, id, *number)?;
        }
    }
    Ok(listing)
}

fn identity(files: &impl Files) -> Result<Option<u128>, OpenError> {
    let mut bytes = [0; IDENTITY];
    let file = File::Identity;
    let whole =
        read_exact(files, file, 0, &mut bytes).map_err(OpenError::failed("reading", file))?;
    let (checked, expected) = bytes.split_at(IDENTITY - 4);
    if !whole || &bytes[..8] != IDENTITY_MAGIC || u32_at(expected, 0) != Some(sum(0, checked)) {
        return Ok(None);
    }
    let found = u32_at(&bytes, 8).unwrap_or(0);
    if found != segment::VERSION {
        let (file, known) = (file.to_string(), segment::VERSION);
        return Err(OpenError::Version { file, found, known, hint: "" });
    }
    Ok(bytes[12..28].try_into().ok().map(u128::from_le_bytes))
}

/// How a segment begins; none if that is damaged.
fn begin(files: &impl Files, id: u128, number: u64) -> Result<Option<Start>, OpenError> {
    let mut bytes = [0; START];
    let file = File::Segment(number);
    let whole =
        read_exact(files, file, 0, &mut bytes).map_err(OpenError::failed("reading", file))?;
    let Some(start) = whole.then(|| Start::decode(&bytes)).flatten() else { return Ok(None) };
    let file = file.to_string();
    if start.version != segment::VERSION {
        let (found, known) = (start.version, segment::VERSION);
        return Err(OpenError::Version { file, found, known, hint: "" });
    }
    if start.id != id {
        return Err(OpenError::Foreign { file });
    }
    if start.segment != number {
        return Err(OpenError::Doubled { file, of: File::Segment(start.segment).to_string() });
    }
    Ok(Some(start))
}

/// Finds the segment that was written last. None if there is nothing, not even an empty one.
fn tail(
    files: &impl Files,
    id: u128,
    listing: &Listing,
    options: &Options,
    (known, synced): (u64, u32),
) -> Result<Option<Tail>, OpenError> {
    let mut unborn = None;
    for (&number, start) in listing.segments.iter().rev() {
        let file = File::Segment(number);
        let limit = max_file(options);
        let length = files.len(file).map_err(OpenError::failed("reading", file))?;
        if length > limit {
            let why = "it is larger than any segment";
            return Err(OpenError::Damaged { file: file.to_string(), why });
        }
        let bytes =
            segment::load(files, number, limit).map_err(OpenError::failed("reading", file))?;
        let walk = segment::walk(&bytes, seed(id, number));
        if !walk.is_born() {
            if unborn.is_some() {
                let why = "nothing in it can be read";
                return Err(OpenError::Damaged { file: file.to_string(), why });
            }
            unborn = Some(number);
            continue;
        }
        let cut = walk.cut_after(if number == known { synced } else { 0 });
        let others = others(&bytes, &walk, cut);
        let begun = start.map_or(0, |it| it.begun);
        return Ok(Some(Tail { number, begun, bytes, walk, cut, others, unborn }));
    }
    Ok(None)
}

/// A manifest may need more than a segment is meant to have.
fn max_file(options: &Options) -> u64 {
    u64::from(options.segment_bytes).max(1 << 30)
}

fn others(bytes: &[u8], walk: &Walk, cut: Cut) -> Option<BTreeMap<u64, u32>> {
    let kept = || walk.found.iter().filter(|it| it.place < cut.at);
    let manifest = walk.manifest()?;
    let body = manifest.place as usize + manifest.header.body_at();
    let body = bytes.get(body..body + manifest.header.body as usize)?;
    let mut others: BTreeMap<u64, u32> = Manifest::decode(body).0.into_iter().collect();
    for retired in kept().filter(|it| it.header.kind == Kind::Retired) {
        others.remove(&retired.header.at);
    }
    Some(others)
}

fn open_sealed(
    files: &mut impl Files,
    id: u128,
    listing: &Listing,
    tail: &Tail,
    options: &Options,
    opened: &mut Opened,
) -> Result<BTreeMap<u64, Sealed>, OpenError> {
    let mut sealed = BTreeMap::new();
    for (&number, start) in listing.segments.range(..tail.number) {
        let end = match &tail.others {
            // Without a manifest, whatever is there may be needed.
            None => length(files, number, options)?,
            Some(others) => match others.get(&number) {
                Some(end) => *end,
                None => continue,
            },
        };
        if start.is_none() {
            let (first, end) = (0, START as u32);
            opened.damage.push(Damage::Bytes { segment: number, first, end });
        }
        let length = length(files, number, options)?;
        if length < end {
            opened.damage.push(Damage::Bytes { segment: number, first: length, end });
        }
        let summary = match index::open(files, id, number) {
            Ok(summary) if summary.segment == number && summary.end == end => summary,
            Ok(_) | Err(Unusable::Bad) => {
                let again = index_again(files, id, number, end);
                let (summary, damage) = again.map_err(|error| OpenError::Failed {
                    doing: "making again",
                    file: File::Index(number).to_string(),
                    fault: error.fault,
                })?;
                opened.damage.extend(damage);
                opened.indexed += 1;
                summary
            }
            Err(unusable) => return Err(refuse(unusable, number)),
        };
        sealed.insert(number, Sealed { summary, live: None });
    }
    Ok(sealed)
}

fn length(files: &impl Files, number: u64, options: &Options) -> Result<u32, OpenError> {
    let file = File::Segment(number);
    let length = files.len(file).map_err(OpenError::failed("reading", file))?;
    Ok(length.min(max_file(options)).min(u32::MAX.into()) as u32)
}

fn refuse(unusable: Unusable, number: u64) -> OpenError {
    let file = File::Index(number).to_string();
    match unusable {
        Unusable::Version(found) => {
            let hint = ", or delete this file, which is made again";
            OpenError::Version { file, found, known: index::VERSION, hint }
        }
        Unusable::Foreign => OpenError::Foreign { file },
        Unusable::Fault(fault) => OpenError::Failed { doing: "reading", file, fault },
        Unusable::Bad => OpenError::Damaged { file, why: "its checksum is wrong" },
    }
}

/// Removes what nothing needs: segments that were being made or given back, and indexes without a segment.
fn tidy(
    files: &mut impl Files,
    listing: &Listing,
    tail: &Tail,
    opened: &mut Opened,
) -> Result<(), OpenError> {
    let mut gone: Vec<File> = tail.unborn.map(File::Segment).into_iter().collect();
    if let Some(others) = &tail.others {
        let rest = listing.segments.range(..tail.number).map(|(number, _)| *number);
        gone.extend(rest.filter(|it| !others.contains_key(it)).map(File::Segment));
    }
    let stays = |it: u64| listing.segments.contains_key(&it) && !gone.contains(&File::Segment(it));
    let indexes: Vec<File> =
        listing.indexes.iter().copied().filter(|it| !stays(*it)).map(File::Index).collect();
    gone.extend(indexes);
    for file in &gone {
        files.remove(*file).map_err(OpenError::failed("removing", *file))?;
        opened.removed.push(file.to_string());
    }
    if !gone.is_empty() {
        files.sync_dir().map_err(OpenError::failed("syncing", File::Identity))?;
    }
    Ok(())
}

impl Tail {
    /// Whether something that was synced is damaged. That it was synced is known from records behind it, perhaps
    /// only from such as are to be cut off. So the segment is sealed as it is: then its end is known, and everything
    /// before it was synced.
    fn is_hurt(&self) -> bool {
        let end = self.cut.at;
        let bad = self.walk.bad.iter().any(|(first, _)| *first < end);
        bad || self.others.is_none() || self.walk.found.iter().any(|it| it.place < end && !it.whole)
    }
}

/// Cuts off what was being written. It must be gone before anything is written in its place: what is left of it
/// behind that would be taken for records.
fn cut(
    files: &mut impl Files,
    tail: &Tail,
    options: &Options,
    hurt: bool,
    opened: &mut Opened,
) -> Result<(), OpenError> {
    let (file, at) = (File::Segment(tail.number), u64::from(tail.cut.at));
    if tail.walk.used > tail.cut.at {
        opened.torn = tail.walk.used - tail.cut.at;
        opened.dropped = tail.cut.dropped;
        if !hurt {
            files.cut(file, at, at).map_err(OpenError::failed("cutting", file))?;
        }
    }
    // What was read may still be in memory only, from the process before; and if that has failed to sync it, the
    // system takes it for written. So it is written again, in its place.
    let (from, end) = (tail.cut.synced, tail.cut.at as usize);
    let unsynced = tail.bytes.get(from as usize..end).unwrap_or_default();
    match files.write(file, from.into(), unsynced) {
        // There are file systems that need space for that. What was read is all that there is, then.
        Ok(()) | Err(Fault { kind: FaultKind::Full, .. }) => {}
        Err(fault) => return Err(OpenError::failed("writing", file)(fault)),
    }
    files.sync(file).map_err(OpenError::failed("syncing", file))?;
    // Without space for the rest, that shows when there is something to write.
    if !hurt {
        let _ = files.cut(file, at, options.segment_bytes.into());
    }
    Ok(())
}

fn active(tail: &Tail, id: u128, opened: &mut Opened) -> Active {
    let mut active = Active::new(tail.number, tail.begun, tail.cut.at);
    let kept = |walk: &mut Walk| {
        walk.found.retain(|it| it.place < tail.cut.at);
        walk.bad.retain(|(first, _)| *first < tail.cut.at);
    };
    let mut walk = tail.walk.clone();
    kept(&mut walk);
    learn(&tail.bytes, seed(id, tail.number), &walk, tail.number, &mut active, &mut opened.damage);
    active
}

/// Learns of all records of a segment, and says which are damaged.
fn learn(
    bytes: &[u8],
    seed: u32,
    walk: &Walk,
    segment: u64,
    active: &mut Active,
    damage: &mut Vec<Damage>,
) {
    for (first, end) in &walk.bad {
        damage.push(Damage::Bytes { segment, first: *first, end: *end });
    }
    for found in &walk.found {
        let read = bytes.get(found.place as usize..).and_then(|it| record::decode(seed, it));
        let Some((header, name)) = read else { continue };
        if header.kind.is_of_room() {
            active.note(&name.into(), &header, found.place);
        }
        let room = name.to_owned();
        match header.kind {
            _ if found.whole => {}
            Kind::Append => {
                let (first, end) = (header.at, header.at.saturating_add(1));
                damage.push(Damage::Publications { room, first, end });
            }
            Kind::Head => damage.push(Damage::Head { room }),
            _ => {
                let (first, end) = (found.place, found.end());
                damage.push(Damage::Bytes { segment, first, end });
            }
        }
    }
}

/// Makes the index of a sealed segment again. Says what is damaged in the segment.
pub(super) fn index_again(
    files: &mut impl Files,
    id: u128,
    number: u64,
    end: u32,
) -> Result<(Summary, Vec<Damage>), ReadError> {
    let file = File::Segment(number);
    let bytes = segment::load(files, number, end.into()).map_err(ReadError::of(file))?;
    let walk = segment::walk(&bytes, seed(id, number));
    let begun = Start::decode(&bytes).map_or(0, |it| it.begun);
    let mut active = Active::new(number, begun, end);
    let mut damage = Vec::new();
    learn(&bytes, seed(id, number), &walk, number, &mut active, &mut damage);
    let summary = Summary::of(number, begun, end);
    let parts = active.order.iter();
    let parts = parts.filter_map(|(hash, name)| Some((*hash, name, active.parts.get(name)?)));
    let (summary, bytes) = index::build(id, summary, parts);
    let file = File::Index(number);
    let written = files.create(file, bytes.len() as u64);
    let written = written.and_then(|()| files.write(file, 0, &bytes));
    written.map_err(ReadError::of(file))?;
    Ok((summary, damage))
}

impl<F: Files> Store<F> {
    /// The segments, for [`Self::verify`].
    pub fn segments(&self) -> Vec<u64> {
        self.sealed.keys().copied().chain([self.active.number]).collect()
    }

    /// Reads a whole segment, and says what is damaged in it, needed or not.
    pub fn verify(&self, segment: u64) -> Result<Vec<Damage>, ReadError> {
        let end = self.sealed.get(&segment).map_or(self.active.end, |it| it.summary.end);
        let bytes = segment::load(&self.files, segment, end.into());
        let bytes = bytes.map_err(ReadError::of(File::Segment(segment)))?;
        let seed = seed(self.id, segment);
        let walk = segment::walk(&bytes, seed);
        let (mut active, mut damage) = (Active::new(segment, 0, end), Vec::new());
        learn(&bytes, seed, &walk, segment, &mut active, &mut damage);
        if bytes.len() < end as usize {
            damage.push(Damage::Bytes { segment, first: bytes.len() as u32, end });
        }
        Ok(damage)
    }

    /// The room's place in the order of rooms.
    pub fn order(room: &str) -> u64 {
        filter::hash(room)
    }
}
