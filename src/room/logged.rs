//! A room on disk: what is asked of this node's log, and how much of the room's stream the log has.
//!
//! In: entries that are placed or copied, and what the log answers. Out: [`LogRequest`]s. A write that fails is tried
//! again, with all that follow it, until the log takes it; meanwhile nothing counts as kept here, so nothing is
//! acknowledged on the strength of it.
//!
//! Which copies are on disk: a home's, those of its successors, and of others that hold one until those have theirs. An
//! ordinary mirror keeps none.

use std::sync::Arc;

use super::{
    line::{Root, Standing},
    messages::{Begin, Item},
    node::{Node, Out},
    options::RoomOptions,
    persisted::Head,
    repair::Repairs,
    room::{Role, Room},
    stream::{Entry, Stream},
    types::{Epoch, Publication, RoomName, Version},
    writes::Writes,
};
use crate::{cluster::slots::Term, log, runtime::time::Time};

/// What a publication takes there beside its own and, twice, the room's name.
const OVERHEAD: usize = 200;
/// The most writes of a room that wait for the log.
const MOST_UNSYNCED: usize = 10_000;

/// What a room asks of the log of its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogRequest {
    /// Write this, all or nothing, and answer once it is synced. Writes of a room are done in order.
    Write(u64, Vec<LogChange>),
    /// Answer with publications.
    Read(u64, log::Query),
}

/// Something to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogChange {
    /// What is known of the room from now on.
    Head(Head),
    /// A publication, and when it was published.
    Append(Time, Entry),
    /// A publication that can't be read any more, once more, and when it was published.
    Repair(Time, Entry),
    /// Forget the publications before this offset; if the room does not reach there, it goes on from there.
    Trim(u64),
    /// Forget the publications after this offset.
    Truncate(u64),
    /// Forget the room.
    Remove,
}

/// What the log answers to the request of this number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogReply {
    /// It is synced.
    Written(u64),
    /// It could not be written.
    Failed(u64),
    /// Here is what was to be read; none: it can't be read now.
    Read(u64, Option<LogPage>),
    /// Nobody has asked: the publications from one offset to before another can't be read any more.
    Damaged(u64, u64),
}

/// Publications of a room, as the log has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogPage {
    /// In the order that was asked for, each with when it was published.
    pub entries: Vec<(Time, Entry)>,
    /// The first offset that the log has.
    pub first: u64,
    /// The page ends before this one, which can't be read any more, though there is more behind it.
    pub damaged: Option<u64>,
}

/// A room that was found in the log when the node started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedRoom {
    /// The room.
    pub name: RoomName,
    /// What is known of it.
    pub head: Head,
    /// The first offset that is there.
    pub first: u64,
    /// The offset that the next publication will have.
    pub next: u64,
}

/// How much of a stream this node's log has.
#[derive(Debug, Clone, Default)]
pub struct Logged {
    /// The first offset that it may have.
    first: u64,
    writes: Writes,
    /// Of what was written last as the head.
    head: Option<(Epoch, Root, Term, Option<Version>)>,
    /// What the log has was not read since the node started: neither publications nor keys are in memory.
    cold: bool,
    /// It was found when the node started, and no home has gone on from it since.
    found: bool,
    /// Nothing that was said in the stream since it began here was acknowledged. Should the node end now, another may begin
    /// the room, and what is here is no reason to forget what was acknowledged there.
    unproven: bool,
    /// The log has something else in its place: a copy that has begun to come. What is in memory is all that is left.
    replaced: bool,
    /// What is copied here and not all written yet. Boxed: few rooms are.
    copying: Option<Box<Copying>>,
    /// What is damaged here or at a peer, and is read once more. Boxed: hardly any room has it.
    pub(super) repairs: Option<Box<Repairs>>,
}

/// A copy on its way to the log. Until it is there, the log lacks some of what there is.
#[derive(Debug, Clone, Default)]
struct Copying {
    /// Its beginning, which replaces what is there: it goes out with the next write, so that a small copy is there as a
    /// whole, or what was there before.
    beginning: Vec<LogChange>,
    /// Up to where it has to be synced.
    through: u64,
    /// What is to be read then.
    reads: Vec<(u64, log::Query)>,
}

impl Logged {
    /// Of a stream that is to be written from this offset on; it may have been begun just now.
    fn new(first: u64, begins: bool) -> Self {
        let writes = Writes::after(first.saturating_sub(1));
        Self { first, writes, unproven: begins, ..Self::default() }
    }

    /// Has the log read something, once it has all that there is. As long as what was copied here is not written, it lacks
    /// some of it.
    fn read(&mut self, room: &RoomName, id: u64, query: log::Query, node: &mut Node) {
        match &mut self.copying {
            Some(copying) => copying.reads.push((id, query)),
            None => node.log(room, LogRequest::Read(id, query)),
        }
    }

    /// Reads what is to be read, if all that was copied is written.
    fn read_if_whole(&mut self, room: &RoomName, node: &mut Node) {
        let synced = self.synced();
        let whole = |it: &mut Box<Copying>| it.beginning.is_empty() && it.through <= synced;
        let reads = self.copying.take_if(whole).into_iter().flat_map(|it| it.reads);
        reads.for_each(|(id, query)| node.log(room, LogRequest::Read(id, query)));
    }

    /// Of a stream that was found in the log.
    pub fn found(head: &Head, first: u64, next: u64) -> Self {
        let writes = Writes::after(next.saturating_sub(1));
        let head = Some((head.line.epoch, head.root, head.term, head.version.clone()));
        Self { first, writes, head, cold: true, found: true, ..Self::default() }
    }

    /// Whether all of the stream is there, and nothing is to be written, read or repaired.
    pub(super) fn is_at_rest(&self, stream: &Stream) -> bool {
        let waits = self.is_failing() || self.copying.is_some() || self.repairs.is_some();
        let waits = waits || self.replaced;
        let (epoch, Standing { root, term, top, .. }) =
            (stream.position().epoch, stream.standing());
        let is_written = self.writes.is_empty() && self.synced() == top;
        let is_known = self.has_head((epoch, root, term), stream);
        is_written && !waits && !self.unproven && is_known
    }

    /// The first offset that may be there.
    pub(super) fn first_known(&self) -> u64 {
        self.first
    }

    /// Up to where everything is synced.
    pub fn synced(&self) -> u64 {
        self.writes.synced()
    }

    /// Whether this publication is there, for all that is known.
    pub fn has(&self, offset: u64) -> bool {
        (self.first..=self.synced()).contains(&offset)
    }

    /// The first offset that may be read, of a stream that has come to `top`.
    pub fn first(&self, top: u64, options: &RoomOptions) -> u64 {
        self.first.max((top + 1).saturating_sub(options.history_size as u64))
    }

    /// The log has nothing before this offset (any more).
    pub fn begins_at(&mut self, first: u64) {
        self.first = self.first.max(first);
    }

    /// Whether neither publications nor keys were read since the node started.
    pub fn is_cold(&self) -> bool {
        self.cold
    }

    /// A home has gone on from it, this node or another.
    pub(super) fn goes_on(&mut self) {
        self.found = false;
    }

    /// They were.
    pub fn is_warm(&mut self) {
        self.cold = false;
    }

    /// Whether the log does not take what it is to write.
    pub fn is_failing(&self) -> bool {
        self.writes.is_failing()
    }

    /// When the log is to be asked again.
    pub fn next_due(&self) -> Option<Time> {
        self.writes.next_due()
    }

    /// Whether a copy begins to take its place in the log that is too large to wait until it is here as a whole.
    pub(super) fn has_begun_to_replace(&self) -> bool {
        self.copying.as_deref().is_none_or(|it| it.beginning.is_empty())
    }

    /// Another copy takes its place in the log: of a stream that has the publications from `first` on in memory. What was
    /// still to be written would be written into that copy.
    pub(super) fn be_replaced(&mut self, first: u64) {
        if !self.replaced {
            let (found, head) = (self.found, self.head.take());
            *self = Self { replaced: true, found, head, ..Self::new(first, self.unproven) };
        }
    }

    /// Has the log write this, after which it has the stream up to `through`.
    pub fn write(
        &mut self,
        room: &RoomName,
        changes: Vec<LogChange>,
        through: u64,
        node: &mut Node,
    ) {
        if self.replaced {
            return;
        }
        let changes = match self.copying.as_mut().map(|it| std::mem::take(&mut it.beginning)) {
            None => changes,
            Some(beginning) => beginning.into_iter().chain(changes).collect(),
        };
        self.writes.write(room, changes, through, node);
    }

    /// Has the log write once more what it can't read any more.
    pub(super) fn rewrite(&mut self, room: &RoomName, at: Time, entry: Entry, node: &mut Node) {
        self.write(room, vec![LogChange::Repair(at, entry)], self.writes.through(), node);
    }

    /// The head to be written before anything else, if it has changed.
    fn new_head(&mut self, stream: &Stream) -> Option<LogChange> {
        let (epoch, Standing { mut root, term, .. }) = (stream.position().epoch, stream.standing());
        // An empty one takes nobody's place.
        root.tentative |= self.unproven && term != Term::default();
        (!self.has_head((epoch, root, term), stream)).then(|| {
            self.head = Some((epoch, root, term, stream.version().cloned()));
            LogChange::Head(Head { root, ..stream.head() })
        })
    }

    /// Whether this is what was written last as the head.
    fn has_head(&self, known: (Epoch, Root, Term), stream: &Stream) -> bool {
        let written = self.head.as_ref();
        written.is_some_and(|(epoch, root, term, version)| {
            (*epoch, *root, *term) == known && version.as_ref() == stream.version()
        })
    }

    /// Whether so much waits for the log that what follows would have to wait in memory.
    fn is_behind(&self, options: &RoomOptions) -> bool {
        // What is not in the log yet has to be in the ring, or nobody could read it.
        let ring = options.ring_size();
        let most = if options.history_size > ring { ring } else { MOST_UNSYNCED };
        self.writes.len() >= most
    }

    /// Whether the log can't take what is said now: it fails, or it is too slow.
    pub fn is_stuck(&self, options: &RoomOptions) -> bool {
        self.is_failing() || self.is_behind(options)
    }
}

impl Node {
    /// Asks the log something about a room.
    pub fn log(&mut self, room: &RoomName, request: LogRequest) {
        self.out.push(Out::Log { room: room.clone(), request });
    }
}

impl Stream {
    /// Whether a copy has begun to take its place in the log.
    pub(super) fn is_replaced(&self) -> bool {
        self.logged.as_deref().is_some_and(|it| it.replaced)
    }

    /// Lets `write` have the log write something.
    fn with_log(&mut self, write: impl FnOnce(&mut Logged, &Self)) {
        if let Some(mut logged) = self.logged.take() {
            write(&mut logged, self);
            self.logged = Some(logged);
        }
    }
}

impl Room {
    /// The stream goes to the log, from its beginning in memory.
    pub(super) fn begin_to_log(&mut self, begins: bool, node: &mut Node) {
        if !self.options.is_on_disk() {
            return;
        }
        let Some(stream) = self.stream.as_deref_mut().filter(|it| it.logged.is_none()) else {
            return;
        };
        let (first, top) = (stream.history.first(), stream.history.top());
        let repeats = stream.repeats(first.saturating_sub(1), node.now);
        let (mut changes, mut bytes) = (vec![LogChange::Remove, LogChange::Trim(first)], 0);
        let mut logged = Logged::new(first, begins);
        for offset in first..=top {
            let Some((age, publication)) = stream.history.get(offset, node.now) else { continue };
            let size = size_on_disk(&publication, &self.name);
            if bytes + size > node.settings.log_batch && bytes > 0 {
                logged.write(&self.name, std::mem::take(&mut changes), offset - 1, node);
                bytes = 0;
            }
            bytes += size;
            let entry = Entry::with(publication, &repeats);
            changes.push(LogChange::Append(node.now.ago(age), entry));
        }
        changes.extend(logged.new_head(stream));
        logged.write(&self.name, changes, top, node);
        logged.copying = Some(Box::new(Copying { through: top, ..Copying::default() }));
        stream.logged = Some(Box::new(logged));
    }

    /// If a copy has taken its place in the log, and never came as a whole, the stream goes there again as far as it is in
    /// memory.
    pub(super) fn log_again(&mut self, node: &mut Node) {
        let stream = self.stream.as_deref_mut();
        let replaced = stream.and_then(|it| it.logged.take_if(|it| it.replaced));
        if let Some(replaced) = replaced {
            self.begin_to_log(replaced.unproven, node);
        }
    }

    /// A publication was placed or came from the home.
    pub(super) fn log_entry(&mut self, entry: &Entry, node: &mut Node) {
        let Some(stream) = self.stream.as_deref_mut().filter(|it| it.logged.is_some()) else {
            return;
        };
        let (name, at) = (&self.name, node.now);
        let needed = self.options.needed_from(&entry.publication);
        stream.with_log(|logged, stream| {
            let mut changes: Vec<LogChange> = logged.new_head(stream).into_iter().collect();
            let through = entry.publication.offset;
            changes.push(LogChange::Append(at, entry.clone()));
            if let Some(needed) = needed.filter(|it| *it > logged.first) {
                logged.begins_at(needed);
                changes.push(LogChange::Trim(needed));
            }
            logged.write(name, changes, through, node);
        });
    }

    /// What is known of the stream may have changed.
    pub(super) fn log_head(&mut self, node: &mut Node) {
        let Some(stream) = self.stream.as_deref_mut() else { return };
        let name = &self.name;
        stream.with_log(|logged, stream| {
            if let Some(head) = logged.new_head(stream) {
                logged.write(name, vec![head], stream.history.top(), node);
            }
        });
    }

    /// Something that was said in the room was acknowledged, so its stream counts.
    pub(super) fn note_proof(&mut self, node: &mut Node) {
        let is_group = self.is_group();
        let Role::Home(home) = &self.role else { return };
        let Some(stream) = self.stream.as_deref_mut() else { return };
        if !home.replication.has_acknowledged() {
            return;
        }
        // That of a group is tentative for no other reason.
        let doubted = is_group && stream.standing().root.tentative;
        if doubted {
            stream.doubt(false);
        }
        let logged = stream.logged.as_deref_mut();
        if logged.is_some_and(|it| std::mem::take(&mut it.unproven)) || doubted {
            self.log_head(node);
        }
    }

    /// What was said is forgotten.
    pub(super) fn log_removal(&mut self, node: &mut Node) {
        let Some(stream) = self.stream.as_deref_mut() else { return };
        let name = &self.name;
        stream.with_log(|logged, stream| {
            let top = stream.history.top();
            logged.begins_at(top + 1);
            logged.write(name, vec![LogChange::Trim(top + 1)], top, node);
        });
    }

    /// What follows `top` was another line's.
    pub(super) fn log_rejoin(&mut self, top: u64, node: &mut Node) {
        let Some(stream) = self.stream.as_deref_mut() else { return };
        let name = &self.name;
        stream.with_log(|logged, stream| {
            let head = logged.new_head(stream);
            let changes = [LogChange::Truncate(top)].into_iter().chain(head).collect();
            logged.writes.end_at(top);
            if let Some(copying) = &mut logged.copying {
                copying.through = copying.through.min(top);
            }
            logged.write(name, changes, top, node);
        });
    }

    /// The log reads something of the room under this number, once it has all that there is.
    pub(super) fn read_log(&mut self, id: u64, query: log::Query, node: &mut Node) {
        match self.stream.as_deref_mut().and_then(|it| it.logged.as_deref_mut()) {
            Some(logged) => logged.read(&self.name, id, query, node),
            None => node.log(&self.name, LogRequest::Read(id, query)),
        }
    }

    /// Whoever is home now says whether anything was acknowledged.
    pub(super) fn leave_proof_to_others(&mut self) {
        if let Some(logged) = self.stream.as_deref_mut().and_then(|it| it.logged.as_deref_mut()) {
            logged.unproven = false;
        }
    }

    /// The stream is not kept on disk any more.
    pub(super) fn stop_logging(&mut self, node: &mut Node) {
        if let Some(stream) = self.stream.as_deref_mut()
            && stream.logged.take().is_some()
        {
            let id = node.next_id();
            node.log(&self.name, LogRequest::Write(id, vec![LogChange::Remove]));
        }
    }

    /// A home is about to go on from a stream that was found in the log, this node or one that fetches it. Where disks sync
    /// later than they answer, clients may have seen more of it than a failure of the power has left, and so where the log
    /// has lost what may have been the end of any room: it goes on in another epoch.
    pub(super) fn leave_what_was_not_synced(&mut self, node: &mut Node) {
        let Some(stream) = self.stream.as_deref_mut() else { return };
        let Some(logged) = stream.logged.as_deref_mut().filter(|it| it.found) else { return };
        logged.goes_on();
        if (node.settings.syncs_late || node.lost_from_log) && node.is_quorum() {
            stream.succeed(node.new_epoch());
            self.log_head(node);
        }
    }

    /// The room was found in the log when the node started.
    pub(super) fn found_in_log(&mut self, found: LoggedRoom, node: &mut Node) {
        let LoggedRoom { head, first, next, .. } = found;
        let logged = Logged::found(&head, first, next);
        node.slots.resume(self.slot, head.term.max(head.root.term));
        let mut stream = Stream::from_log(head, logged, next);
        if node.is_quorum() {
            // Whether a majority has any of it is not known.
            stream.commit(0);
        }
        self.stream = Some(Box::new(stream));
        self.owed = true;
    }

    /// The log answers.
    pub fn log_answered(&mut self, reply: LogReply, node: &mut Node) {
        match reply {
            LogReply::Written(id) => self.log_wrote(id, true, node),
            LogReply::Failed(id) => self.log_wrote(id, false, node),
            LogReply::Read(id, page) => self.log_read(id, page, node),
            LogReply::Damaged(first, end) => self.found_damaged(first, end, node),
        }
        self.settle(node);
    }

    fn log_wrote(&mut self, id: u64, written: bool, node: &mut Node) {
        let stream = self.stream.as_deref_mut().and_then(|it| it.logged.as_deref_mut());
        let incoming = match &mut self.role {
            Role::Mirror(mirror) => mirror.incoming.as_deref_mut(),
            Role::Opening(opening) => opening.incoming_mut(),
            _ => None,
        };
        let incoming = incoming.and_then(|it| it.logged.as_deref_mut());
        for logged in stream.into_iter().chain(incoming) {
            logged.writes.answered(id, written, node.now);
            logged.writes.send_more(&self.name, node);
            logged.read_if_whole(&self.name, node);
        }
        // A successor says so, and a home acknowledges.
        if matches!(self.role, Role::Mirror(_)) {
            self.say_what_is_here(node);
        }
    }

    /// The log has read something. A page that ends before something damaged waits until that is here again, or nobody
    /// has it.
    fn log_read(&mut self, id: u64, page: Option<LogPage>, node: &mut Node) {
        let Some(page) = self.read_for_peer(id, page, node) else { return };
        match page {
            Some(page) if page.damaged.is_some() => self.repair(id, page, node),
            page => self.use_read(id, page, node),
        }
    }

    /// What the log reads was asked for by an opening, a copy for a peer, or the home for someone.
    pub(super) fn use_read(&mut self, id: u64, page: Option<LogPage>, node: &mut Node) {
        if self.is_opening_with(id) {
            return self.warmed(page, node);
        }
        if let Some(page) = self.copy_read(id, page, node) {
            self.read_for_someone(id, page, node);
        }
    }

    /// Writes again what could not be written, once it is time.
    pub(super) fn retry_log(&mut self, node: &mut Node) {
        let stream = self.stream.as_deref_mut().and_then(|it| it.logged.as_deref_mut());
        let incoming = match &mut self.role {
            Role::Mirror(mirror) => mirror.incoming.as_deref_mut(),
            Role::Opening(opening) => opening.incoming_mut(),
            _ => None,
        };
        let incoming = incoming.and_then(|it| it.logged.as_deref_mut());
        for logged in stream.into_iter().chain(incoming) {
            logged.writes.retry(&self.name, node);
        }
    }

    /// Up to where this node's copy is kept: on disk, if it is to be there.
    pub(super) fn kept(&self) -> u64 {
        let Some(stream) = self.stream.as_deref() else { return 0 };
        stream.logged.as_deref().map_or(stream.history.top(), Logged::synced)
    }

    /// A copy of the home's begins, which is to replace what is in the log.
    pub(super) fn log_begin(&self, begin: &Begin) -> Option<Box<Logged>> {
        let Begin::Afresh { first, .. } = begin else { return None };
        if !self.options.is_on_disk() {
            return None;
        }
        let mut logged = Logged::new(*first, false);
        let beginning = vec![LogChange::Remove, LogChange::Trim(*first)];
        logged.copying = Some(Box::new(Copying { beginning, ..Copying::default() }));
        Some(Box::new(logged))
    }
}

/// What a publication takes on disk, about.
fn size_on_disk(publication: &Publication, room: &RoomName) -> usize {
    publication.weight() + 2 * room.len() + OVERHEAD
}

/// Writes the publications of a page of a copy, of which those up to `top` are there.
pub(super) fn log_page(
    logged: &mut Logged,
    room: &RoomName,
    mut top: u64,
    items: &[Item],
    node: &mut Node,
) {
    let mut changes = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let Item::Publication(age, publication) = item else { continue };
        let offset = publication.offset;
        if offset <= top {
            continue;
        }
        if offset > top + 1 {
            changes.push(LogChange::Trim(offset));
            logged.begins_at(offset);
        }
        let entry = Entry::followed_by(publication.clone(), &items[index + 1..]);
        changes.push(LogChange::Append(node.now.ago(*age), entry));
        top = offset;
    }
    if changes.is_empty() {
        return;
    }
    let copying = logged.copying.get_or_insert_default();
    copying.through = top;
    let size = |it: &LogChange| match it {
        LogChange::Append(_, entry) => size_on_disk(&entry.publication, room),
        _ => 0,
    };
    let size = |all: &[LogChange]| all.iter().map(size).sum::<usize>();
    if !copying.beginning.is_empty() {
        if size(&copying.beginning) + size(&changes) < node.settings.log_batch {
            return copying.beginning.append(&mut changes);
        }
        // It is no small copy.
        let before =
            top - changes.iter().filter(|it| matches!(it, LogChange::Append(..))).count() as u64;
        logged.write(room, Vec::new(), before, node);
    }
    logged.write(room, changes, top, node);
}

impl Entry {
    /// A publication with what identifies repeats of it.
    fn with(publication: Arc<Publication>, repeats: &[(u64, Item)]) -> Self {
        let first = repeats.partition_point(|(of, _)| *of < publication.offset);
        let own = repeats[first..].iter().take_while(|(of, _)| *of == publication.offset);
        Self::identified(publication.clone(), own.map(|(_, it)| it))
    }

    /// The same, where that follows it in a page.
    fn followed_by(publication: Arc<Publication>, items: &[Item]) -> Self {
        Self::identified(publication, items.iter().take_while(|it| !it.is_publication()))
    }

    fn identified<'a>(
        publication: Arc<Publication>,
        items: impl Iterator<Item = &'a Item>,
    ) -> Self {
        let mut entry = Self { publication, ..Self::default() };
        for item in items {
            match item {
                Item::Key((_, key, _)) => entry.key = Some(key.clone()),
                Item::Forward(forward, _) => entry.forward = Some(*forward),
                Item::Version(version) => entry.version = Some(version.clone()),
                _ => {}
            }
        }
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::node::NodeId, room::node::RoomSettings};

    /// What was asked of the log.
    fn asked(node: &mut Node) -> Vec<LogRequest> {
        let out = std::mem::take(&mut node.out).into_iter();
        out.filter_map(|it| match it {
            Out::Log { request, .. } => Some(request),
            _ => None,
        })
        .collect()
    }

    #[test]
    fn what_a_copy_replaces_in_the_log_writes_nothing_into_that_copy() {
        let mut node = Node::new(NodeId(1), RoomSettings::default(), 1);
        node.now = Time::from_millis(100_000);
        let (room, mut logged) = ("a".into(), Logged::new(1, false));
        logged.write(&room, vec![LogChange::Trim(1)], 5, &mut node);
        let [LogRequest::Write(id, _)] = asked(&mut node)[..] else { panic!("one write") };
        logged.writes.answered(id, false, node.now);
        assert!(logged.is_failing());
        logged.be_replaced(3);
        node.now = node.now + std::time::Duration::from_secs(10);
        logged.writes.retry(&room, &mut node);
        logged.write(&room, vec![LogChange::Trim(2)], 6, &mut node);
        assert_eq!(asked(&mut node), []);
        // It says that it has nothing there, until it is written again.
        assert_eq!((logged.synced(), logged.has(3), logged.is_failing()), (2, false, false));
    }

    #[test]
    fn with_a_quorum_rooms_go_on_in_another_epoch_where_the_log_has_lost_what_may_have_been_their_end()
     {
        let options = Arc::new(RoomOptions { history_size: 100, ..RoomOptions::default() });
        for (quorum_of, lost, is_another) in
            [(Some(1), true, true), (Some(1), false, false), (None, true, false)]
        {
            let settings = RoomSettings { quorum_of, ..RoomSettings::default() };
            let mut node = Node::new(NodeId(1), settings, 1);
            node.lost_from_log = lost;
            let mut room = Room::new("a".into(), options.clone(), node.now);
            let found = |head| LoggedRoom { name: "a".into(), head, first: 1, next: 10 };
            room.found_in_log(found(Head::lost(Epoch(7))), &mut node);
            let epoch = |room: &Room| room.stream.as_deref().map(|it| it.position().epoch);
            let before = epoch(&room);
            room.leave_what_was_not_synced(&mut node);
            assert_eq!(epoch(&room) != before, is_another, "{quorum_of:?} {lost}");
            let now = epoch(&room);
            room.leave_what_was_not_synced(&mut node);
            assert_eq!(epoch(&room), now, "once");
        }
    }
}
