//! Secrets as typed: files and variables of orchestrators often end them with a line break that nobody sees.

use super::{Invalid, Problems, raw::Raw};

const BREAKS: [char; 2] = ['\n', '\r'];

impl Raw {
    /// Takes line breaks off the ends of secrets that only nodes and callers of the API compare: no header can have
    /// one. Refuses them where others sign: whether theirs has one can't be known here, and if they differ, no token
    /// is valid.
    pub(super) fn tidy_secrets(&mut self, problems: &mut Problems) {
        let cluster = &mut self.cluster;
        let own = [&mut self.http_api.key, &mut self.grpc_api.key, &mut cluster.secret];
        for secret in own.into_iter().chain(&mut cluster.other_secrets) {
            secret.truncate(secret.trim_end_matches(BREAKS).len());
        }
        let (token, other) = (&self.client.token, &self.client.subscription_token);
        let keys = ["hmac_secret_key", "hmac_previous_secret_key"];
        let of_token = [&token.hmac_secret_key, &token.hmac_previous_secret_key];
        let of_other = [&other.hmac_secret_key, &other.hmac_previous_secret_key];
        let mut shared = vec![("webhooks.secret".to_owned(), &self.webhooks.secret)];
        let polls = &self.shared_poll;
        let of_polls = [&polls.hmac_secret_key, &polls.hmac_previous_secret_key];
        let named = keys.iter().zip(of_polls);
        shared.extend(named.map(|(key, it)| (format!("shared_poll.{key}"), it)));
        for (section, secrets) in [("token", of_token), ("subscription_token", of_other)] {
            let named = keys.iter().zip(secrets);
            shared.extend(named.map(|(key, it)| (format!("client.{section}.{key}"), it)));
        }
        for (key, secret) in shared {
            if secret.ends_with(BREAKS) {
                let problem = "ends with a line break, which whoever signs may not have: take it out where the secret is kept (`printf %s`, `echo -n`), there and here";
                problems.add(Invalid::new(key, problem));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_breaks_are_taken_off_or_refused() {
        let mut raw = Raw::default();
        raw.http_api.key = "key\n".into();
        raw.cluster.secret = "secret\r\n".into();
        raw.cluster.other_secrets = vec!["other\n\n".into(), " a b ".into()];
        raw.client.token.hmac_secret_key = "hmac\n".into();
        raw.client.subscription_token.hmac_previous_secret_key = "a\nb".into();
        let mut problems = Problems::default();
        raw.tidy_secrets(&mut problems);
        assert_eq!((raw.http_api.key.as_str(), raw.cluster.secret.as_str()), ("key", "secret"));
        assert_eq!(raw.cluster.other_secrets, ["other", " a b "]);
        let keys: Vec<_> = problems.list().iter().map(|it| it.key.as_str()).collect();
        assert_eq!(keys, ["client.token.hmac_secret_key"]);
    }
}
