//! What goes on for long is told when it begins, when it changes and now and then: not at every attempt.
//! The words, and how loud they are, are the teller's.

use std::time::Duration;

use tokio::time::Instant;

/// What has not changed is told again after this: often enough for who looks into the log only now.
const AGAIN: Duration = Duration::from_secs(60);

/// What was told last, and when.
#[derive(Debug, Default)]
pub(crate) struct News(Option<(String, Instant)>);

impl News {
    /// Whether this is to be told now.
    pub(crate) fn is(&mut self, words: &str) -> bool {
        let now = Instant::now();
        if self.0.as_ref().is_some_and(|(told, when)| told == words && now.duration_since(*when) < AGAIN) {
            return false;
        }
        self.0 = Some((words.to_owned(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_is_told_once_a_minute_and_what_differs_at_once() {
        let mut news = News::default();
        let mut told = Vec::new();
        for words in ["a", "a", "b", "a", "a"] {
            told.push(news.is(words));
            tokio::time::advance(Duration::from_secs(2)).await;
        }
        assert_eq!(told, [true, false, true, true, false]);
        tokio::time::advance(AGAIN).await;
        assert!(news.is("a"));
    }
}
