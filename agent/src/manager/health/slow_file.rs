//! Files on file systems that may not answer. Whoever reads one may be stuck in the kernel, where nothing ends it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How many files are read at a time. Each holds one of the threads that the agent has for whatever may block, 512 in all;
/// with them it also ends tasks.
const READERS_MAX: usize = 32;

/// How long a file waits for its turn. Files that answer are read within a millisecond or so.
const TURN_WITHIN: Duration = Duration::from_millis(500);

/// Those of an agent that read such files.
#[derive(Debug)]
pub(in crate::manager) struct Readers(Arc<Semaphore>);

impl Default for Readers {
    fn default() -> Readers {
        Readers(Arc::new(Semaphore::new(READERS_MAX)))
    }
}

/// One such file.
#[derive(Debug, Default)]
pub(super) struct SlowFile {
    /// Goes on when nobody waits for it any more.
    reading: Option<JoinHandle<io::Result<String>>>,
}

impl SlowFile {
    /// Has the file read by `read`. While an earlier reader is stuck it is waited for, and there is no second. Where all of
    /// `readers` are stuck the file is not read.
    pub(super) async fn read(
        &mut self,
        readers: &Readers,
        read: impl FnOnce() -> io::Result<String> + Send + 'static,
    ) -> io::Result<String> {
        // What came too late is old.
        self.reading.take_if(|reading| reading.is_finished());
        let reading = match &mut self.reading {
            Some(reading) => reading,
            none => {
                let turn = timeout(TURN_WITHIN, Arc::clone(&readers.0).acquire_owned());
                let Ok(Ok(turn)) = turn.await else {
                    return Err(io::Error::other(format!(
                        "not read: {READERS_MAX} files of tasks here are waited for, on file systems that do not answer"
                    )));
                };
                none.insert(tokio::task::spawn_blocking(move || {
                    let text = read();
                    drop(turn);
                    text
                }))
            }
        };
        let text = reading.await;
        self.reading = None;
        text?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;

    use super::*;

    /// Readers that are stuck until they are given a text.
    #[derive(Default)]
    struct Hung {
        begun: Arc<AtomicU32>,
        answers: Vec<mpsc::Sender<String>>,
    }

    impl Hung {
        fn reader(&mut self) -> impl FnOnce() -> io::Result<String> + Send + 'static {
            let (answer, stuck) = mpsc::channel();
            self.answers.push(answer);
            let begun = Arc::clone(&self.begun);
            move || {
                begun.fetch_add(1, Ordering::Relaxed);
                stuck.recv().map_err(io::Error::other)
            }
        }

        async fn have_begun(&self, count: u32) {
            while self.begun.load(Ordering::Relaxed) < count {
                tokio::task::yield_now().await;
            }
            assert_eq!(self.begun.load(Ordering::Relaxed), count);
        }
    }

    /// Waits for a file that does not come.
    async fn give_up(file: &mut SlowFile, readers: &Readers, hung: &mut Hung) {
        let read = timeout(Duration::from_millis(20), file.read(readers, hung.reader()));
        assert!(read.await.is_err(), "it is stuck");
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_to_its_end_has_one_reader() {
        let (readers, mut hung) = (Readers::default(), Hung::default());
        let mut file = SlowFile::default();
        for _ in 0..3 {
            give_up(&mut file, &readers, &mut hung).await;
        }
        hung.have_begun(1).await;
        hung.answers[0].send("old".to_owned()).unwrap();
        while file.reading.as_ref().is_some_and(|it| !it.is_finished()) {
            tokio::task::yield_now().await;
        }
        let read = file.read(&readers, || Ok("new".to_owned())).await;
        assert_eq!(read.unwrap(), "new");
    }

    #[tokio::test]
    async fn files_that_do_not_answer_hold_a_bounded_number_of_threads_and_give_them_back() {
        let (readers, mut hung) = (Readers::default(), Hung::default());
        for _ in 0..READERS_MAX {
            // Who has asked may go: its reader does not.
            give_up(&mut SlowFile::default(), &readers, &mut hung).await;
        }
        hung.have_begun(READERS_MAX as u32).await;
        let mut next = SlowFile::default();
        let refused = next.read(&readers, || Ok("read".to_owned())).await;
        let words = refused.unwrap_err().to_string();
        assert!(words.contains("not read: 32 files"), "{words}");
        hung.answers[0].send("at last".to_owned()).unwrap();
        let read = next.read(&readers, || Ok("read".to_owned())).await;
        assert_eq!(read.unwrap(), "read");
    }
}
