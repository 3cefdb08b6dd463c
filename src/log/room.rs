//! A room, put together from what each segment has of it.
//!
//! What comes in: [`Part`]s, in any order. What goes out: from where to where the room reaches, and in which
//! segment a publication of it is. It doesn't matter in which order records were written, nor whether one is
//! there twice: the numbers in them say what counts.

use super::part::{Gone, Head, Mark, Part, Run};

/// From where to where a room reaches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    /// The generation that appends belong to; 0: there is no room.
    pub generation: u64,
    /// Where it began.
    pub from: u64,
    /// The first offset that is kept.
    pub first: u64,
    /// The offset after the last.
    pub next: u64,
    /// Number of the last removal.
    pub gone: u64,
    /// There is a head.
    pub headed: bool,
    /// Earlier generations, (where it began, generation), lowest first: each reaches to where the next began.
    pub older: Vec<(u64, u64)>,
}

impl Line {
    /// Whether there is such a room.
    pub fn exists(&self) -> bool {
        self.generation > 0 || self.headed
    }

    /// The generation that an offset belongs to, and the offsets from and to where it does.
    fn zone(&self, offset: u64) -> Option<(u64, u64, u64)> {
        if offset < self.first || offset >= self.next {
            return None;
        }
        let all = self.older.iter().copied().chain([(self.from, self.generation)]);
        let begins = all.clone().map(|(from, _)| from);
        let ends = begins.skip(1).chain([self.next]);
        let zone = all.zip(ends).find(|((from, _), end)| (*from..*end).contains(&offset));
        zone.map(|((from, generation), end)| (generation, from.max(self.first), end.min(self.next)))
    }

    /// The generation that a publication belongs to, and where that began.
    pub fn generation_of(&self, offset: u64) -> Option<(u64, u64)> {
        let (generation, ..) = self.zone(offset)?;
        let all = self.older.iter().copied().chain([(self.from, self.generation)]);
        all.map(|(from, it)| (it, from)).find(|(it, _)| *it == generation)
    }

    /// Begins a generation here: all from here on is void.
    pub fn turn(&mut self, generation: u64, from: u64) {
        let all = self.older.drain(..).chain([(self.from, self.generation)]);
        self.older = all.filter(|(began, it)| *began < from && *it > 0).collect();
        (self.generation, self.from, self.next) = (generation, from, from);
        self.first = self.first.min(from);
    }

    /// Keeps only what is here or later.
    pub fn trim(&mut self, first: u64) {
        self.first = first.max(self.first);
        self.next = self.next.max(self.first);
        let ends = self.older.iter().map(|(from, _)| *from).skip(1).chain([self.from]);
        let past = self.older.iter().zip(ends).take_while(|(_, end)| *end <= self.first).count();
        self.older.drain(..past);
    }
}

/// A run of publications in a segment.
#[derive(Debug, Clone)]
pub struct Span {
    /// The segment.
    pub segment: u64,
    /// The run.
    pub run: Run,
}

/// Publications that are side by side in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// The segment.
    pub segment: u64,
    /// The generation.
    pub generation: u64,
    /// The first offset.
    pub first: u64,
    /// The offset after the last.
    pub end: u64,
}

/// A room as it is in memory while it is in use.
#[derive(Debug, Clone, Default)]
pub struct Room {
    /// From where to where it reaches.
    pub line: Line,
    /// What is in which sealed segment, oldest segment first.
    pub spans: Vec<Span>,
    /// The last mark.
    pub mark: Option<(u64, Mark)>,
    /// The last removal.
    pub gone: Option<(u64, Gone)>,
    /// The last head.
    pub head: Option<(u64, Head)>,
    /// It was used since it was last asked.
    pub used: bool,
}

impl Room {
    /// Learns what a segment has of it, besides publications.
    pub fn learn(&mut self, segment: u64, part: &Part) {
        if let Some(gone) = part.gone
            && self.gone.is_none_or(|(_, it)| it.number <= gone.number)
        {
            self.gone = Some((segment, gone));
            self.spans.retain(|it| it.run.generation > gone.number);
        }
        if let Some(head) = part.head
            && self.head.is_none_or(|(_, it)| it.number <= head.number)
        {
            self.head = Some((segment, head));
        }
        if let Some(mark) = part.mark
            && self
                .mark
                .is_none_or(|(_, it)| (it.generation, it.first) <= (mark.generation, mark.first))
        {
            self.mark = Some((segment, mark));
        }
        self.drop_void();
    }

    /// What was before a removal does not count.
    fn drop_void(&mut self) {
        let gone = self.gone.map_or(0, |(_, it)| it.number);
        self.mark = self.mark.filter(|(_, it)| it.generation > gone);
        self.head = self.head.filter(|(_, it)| it.number > gone);
    }

    /// Finds out how far it reaches, once every part is learned. `older` is what its mark says of earlier
    /// generations; `fresh` are runs that are in no sealed segment yet.
    pub fn settle(&mut self, older: Vec<(u64, u64)>, fresh: &[Run]) {
        let gone = self.gone.map_or(0, |(_, it)| it.number);
        self.spans.retain(|it| it.run.generation > gone);
        let runs = || self.spans.iter().map(|it| &it.run).chain(fresh);
        let runs = || runs().filter(|it| it.generation > gone);
        let mark = self.mark.map(|(_, it)| it);
        let newest = runs().max_by_key(|it| it.generation);
        let mut line = Line { gone, headed: self.head.is_some(), ..Line::default() };
        if let Some(mark) = mark {
            (line.generation, line.from) = (mark.generation, mark.from);
            (line.first, line.next) = (mark.first, mark.first.max(mark.from));
            line.older = older;
        } else if let Some(lowest) = runs().map(|it| it.first).min() {
            (line.first, line.next) = (lowest, lowest);
        }
        // If the mark of the newest generation is lost, its publications still say where it began.
        if let Some(newest) = newest.filter(|it| it.generation > line.generation) {
            let first = line.first;
            line.turn(newest.generation, newest.from);
            (line.first, line.next) = (first, first.max(newest.from));
        }
        let ends = runs().filter(|it| it.generation == line.generation).map(Run::end);
        line.next = ends.max().unwrap_or(0).max(line.next);
        self.line = line;
    }

    /// Where the publication at `offset` is, and which others are beside it. `fresh` is what is in the segment
    /// `active`; a segment for which `there` says no is not looked into.
    pub fn locate<'a>(
        &'a self,
        offset: u64,
        (active, fresh): (u64, &'a [Run]),
        there: impl Fn(u64) -> bool,
    ) -> Option<(Stretch, &'a Run)> {
        let (generation, first, end) = self.line.zone(offset)?;
        let mut stretch = Stretch { segment: 0, generation, first, end };
        let fresh = fresh.iter().rev().map(|run| (active, run));
        let sealed = self.spans.iter().rev().map(|it| (it.segment, &it.run));
        // What was written again (copied forward, or repaired) is newer, and better.
        for (segment, run) in fresh.chain(sealed).filter(|(_, it)| it.generation == generation) {
            if segment != active && !there(segment) {
                continue;
            }
            if (run.first..run.end()).contains(&offset) {
                stretch.segment = segment;
                stretch.first = stretch.first.max(run.first);
                stretch.end = stretch.end.min(run.end());
                return Some((stretch, run));
            }
            if run.first > offset {
                stretch.end = stretch.end.min(run.first);
            } else {
                stretch.first = stretch.first.max(run.end());
            }
        }
        None
    }

    /// Offsets that it should have, and no segment has.
    pub fn gaps(&self, active: (u64, &[Run]), there: impl Fn(u64) -> bool) -> Vec<(u64, u64)> {
        let mut gaps: Vec<(u64, u64)> = Vec::new();
        let mut at = self.line.first;
        while at < self.line.next {
            let Some((stretch, _)) = self.locate(at, active, &there) else {
                let next = self.next_known(at, active.1);
                gaps.push((at, next));
                at = next;
                continue;
            };
            at = stretch.end;
        }
        gaps
    }

    /// The first offset after this one at which a run or a generation begins.
    pub(super) fn next_known(&self, at: u64, fresh: &[Run]) -> u64 {
        let runs = self.spans.iter().map(|it| &it.run).chain(fresh).map(|it| it.first);
        let zones = self.line.older.iter().map(|(from, _)| *from).chain([self.line.from]);
        let next = runs.chain(zones).filter(|it| *it > at).min();
        next.unwrap_or(u64::MAX).min(self.line.next)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::part::Places, *};

    fn run(generation: u64, from: u64, first: u64, count: u32) -> Run {
        let (bytes, oldest, newest, places) = (0, 0, 0, Places::Index(0));
        Run { generation, from, first, count, bytes, oldest, newest, places }
    }

    fn room(mark: (u64, u64, u64), older: &[(u64, u64)], runs: &[(u64, Run)]) -> Room {
        let (generation, from, first) = mark;
        let mark = Mark { generation, from, first, place: 0, deep: false };
        let spans = runs.iter().map(|(segment, run)| Span { segment: *segment, run: run.clone() });
        let mut room = Room { mark: Some((1, mark)), spans: spans.collect(), ..Room::default() };
        room.settle(older.to_vec(), &[]);
        room
    }

    fn at(room: &Room, offset: u64) -> Option<(u64, u64)> {
        room.locate(offset, (0, &[]), |_| true).map(|(it, _)| (it.segment, it.generation))
    }

    #[test]
    fn what_was_overruled_is_never_found() {
        let runs = [(1, run(1, 0, 1, 10)), (2, run(5, 9, 9, 2))];
        let room = room((5, 9, 1), &[(0, 1)], &runs);
        assert_eq!((room.line.first, room.line.next), (1, 11));
        assert_eq!(at(&room, 8), Some((1, 1)));
        assert_eq!(at(&room, 9), Some((2, 5)));
        assert_eq!(at(&room, 11), None);
    }

    #[test]
    fn an_older_generation_never_fills_a_gap_of_a_newer() {
        let runs = [(1, run(1, 0, 1, 10)), (2, run(5, 9, 9, 1)), (2, run(5, 9, 11, 1))];
        let room = room((5, 9, 1), &[(0, 1)], &runs);
        assert_eq!(at(&room, 10), None);
        assert_eq!(room.gaps((0, &[]), |_| true), [(10, 11)]);
    }

    #[test]
    fn what_was_written_again_is_preferred_and_ends_what_is_beside_it() {
        let runs = [(1, run(1, 0, 1, 10)), (2, run(1, 0, 5, 1))];
        let room = room((1, 0, 1), &[], &runs);
        let (stretch, _) = room.locate(3, (0, &[]), |_| true).expect("there");
        assert_eq!((stretch.first, stretch.end), (1, 5));
        assert_eq!(at(&room, 5), Some((2, 1)));
        let (stretch, _) = room.locate(7, (0, &[]), |_| true).expect("there");
        assert_eq!((stretch.first, stretch.end), (6, 11));
    }

    #[test]
    fn a_lost_mark_hides_what_it_may_have_overruled() {
        let runs = [(1, run(1, 0, 1, 10)), (2, run(5, 4, 5, 2))];
        let room = room((1, 0, 1), &[], &runs);
        assert_eq!(room.line.next, 7);
        assert_eq!(at(&room, 3), Some((1, 1)));
        assert_eq!(at(&room, 4), None);
        assert_eq!(at(&room, 8), None);
    }

    #[test]
    fn generations_are_forgotten_once_nothing_of_them_is_kept() {
        let mut line = Line { generation: 1, first: 1, next: 11, ..Line::default() };
        line.turn(2, 9);
        line.next = 12;
        line.turn(3, 11);
        assert_eq!(line.older, [(0, 1), (9, 2)]);
        line.trim(9);
        assert_eq!(line.older, [(9, 2)]);
        line.turn(4, 4);
        assert_eq!((line.first, line.next, line.older.len()), (4, 4, 0));
    }
}
