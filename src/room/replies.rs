//! SHELL. How API calls get their answers: all that the registry has for the calls of one thread goes there together.
//!
//! In: answers, as the registry gives them. Out: the same, to whoever waits. A thread that was woken for each answer by
//! itself would take the core from the registry each time, and sleep again at once.

use std::cell::RefCell;

use tokio::sync::{mpsc, oneshot};

use super::types::Answer;

/// An answer, and who waits for it.
type Answered = (oneshot::Sender<Answer>, Answer);

thread_local! {
    /// Where answers for this thread go, once it has asked something.
    static DESK: RefCell<Option<mpsc::UnboundedSender<Vec<Answered>>>> = const { RefCell::new(None) };
}

/// Whom the registry answers.
#[derive(Debug)]
pub struct Reply {
    to: oneshot::Sender<Answer>,
    thread: mpsc::UnboundedSender<Vec<Answered>>,
}

/// Who is to be answered, and where the answer comes. To be called within the thread's runtime.
pub fn channel() -> (Reply, oneshot::Receiver<Answer>) {
    let (to, answer) = oneshot::channel();
    let thread = DESK.with_borrow_mut(|desk| {
        let open = desk.take().filter(|it| !it.is_closed()).unwrap_or_else(begin);
        desk.insert(open).clone()
    });
    (Reply { to, thread }, answer)
}

/// Begins to hand out answers on this thread.
fn begin() -> mpsc::UnboundedSender<Vec<Answered>> {
    let (thread, mut came) = mpsc::unbounded_channel::<Vec<Answered>>();
    tokio::spawn(async move {
        while let Some(answers) = came.recv().await {
            for (to, answer) in answers {
                // The caller may be gone.
                let _ = to.send(answer);
            }
        }
    });
    thread
}

/// Answers that are not on their way yet.
#[derive(Debug, Default)]
pub struct Replies {
    threads: Vec<(mpsc::UnboundedSender<Vec<Answered>>, Vec<Answered>)>,
}

impl Replies {
    /// Adds one.
    pub fn push(&mut self, Reply { to, thread }: Reply, answer: Answer) {
        // There are not many threads.
        match self.threads.iter_mut().find(|(it, _)| it.same_channel(&thread)) {
            Some((_, answers)) => answers.push((to, answer)),
            None => self.threads.push((thread, vec![(to, answer)])),
        }
    }

    /// Sends all.
    pub fn flush(&mut self) {
        for (thread, answers) in self.threads.drain(..) {
            // The thread may have ended.
            let _ = thread.send(answers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_to_the_threads_that_asked() {
        let mut replies = Replies::default();
        for runtime in 0..2 {
            let here = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let asked = here.block_on(async { (0..3).map(|_| channel()).collect::<Vec<_>>() });
            let (asked, answers): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
            asked.into_iter().for_each(|it| replies.push(it, Answer::Published(None)));
            assert_eq!(replies.threads.len(), 1, "runtime {runtime}");
            replies.flush();
            let all = here.block_on(futures_util::future::join_all(answers));
            assert!(all.into_iter().all(|it| it == Ok(Answer::Published(None))));
        }
    }
}
