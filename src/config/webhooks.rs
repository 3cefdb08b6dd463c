//! The webhooks' options: as typed, checked.

use super::{Invalid, nearest, raw};
use crate::webhooks::{event::KINDS, queue::QueueLimits, sender::WebhookOptions};

/// The shortest secret.
const MIN_SECRET: usize = 16;

impl raw::Webhooks {
    pub(super) fn check(&self) -> Result<Option<WebhookOptions>, Invalid> {
        let wrong =
            |key: &str, problem: String| Err(Invalid::new(format!("webhooks.{key}"), problem));
        if self.endpoint.is_empty() {
            return Ok(None);
        }
        let url = reqwest::Url::parse(&self.endpoint);
        if !url.is_ok_and(|it| ["http", "https"].contains(&it.scheme()) && it.has_host()) {
            let problem =
                format!("{:?} is no URL that begins with http:// or https://", self.endpoint);
            return wrong("endpoint", problem);
        }
        if self.secret.len() < MIN_SECRET {
            return wrong("secret", format!("at least {MIN_SECRET} characters"));
        }
        if let Some(other) = self.events.iter().find(|it| !KINDS.contains(&it.as_str())) {
            let hint = nearest(other, KINDS.into_iter());
            return wrong("events", format!("{other:?} is no kind of event{hint}"));
        }
        if self.timeout.0.is_zero() {
            return wrong("timeout", "more than nothing".to_owned());
        }
        if self.batch_size == 0 || self.queue_max_events < self.batch_size {
            return wrong("batch_size", "1 at least, and queue_max_events at most".to_owned());
        }
        Ok(Some(WebhookOptions {
            endpoint: self.endpoint.clone(),
            secret: self.secret.clone(),
            kinds: self.events.clone(),
            timeout: self.timeout.0,
            limits: QueueLimits {
                waiting: self.queue_max_events,
                batch: self.batch_size,
                linger: self.batch_interval.0,
            },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(change: impl Fn(&mut raw::Webhooks)) -> Option<String> {
        let mut webhooks = raw::Webhooks {
            endpoint: "https://a".into(),
            secret: "0123456789abcdef".into(),
            ..raw::Webhooks::default()
        };
        change(&mut webhooks);
        webhooks.check().err().map(|it| it.key)
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |key: &str| Some(format!("webhooks.{key}"));
        assert_eq!(key(|_| {}), None);
        assert_eq!(key(|it| it.endpoint = "a".into()), wrong("endpoint"));
        assert_eq!(key(|it| it.secret = "short".into()), wrong("secret"));
        assert_eq!(key(|it| it.events.push("joins".into())), wrong("events"));
        assert_eq!(key(|it| it.batch_size = 0), wrong("batch_size"));
        assert_eq!(key(|it| it.queue_max_events = 1), wrong("batch_size"));
        assert!(raw::Webhooks::default().check().is_ok_and(|it| it.is_none()));
    }
}
