//! When a session wakes: pings and pongs, the end of the connection, the ends of its subscriptions.

use std::time::Duration;

use super::{
    settings::Env,
    state::{ConnectionState, Out, Session},
    subscription::Subscription,
};
use crate::protocol::{codes::Disconnect, message::Reply};

impl Session {
    /// When to look again: for the ping, for the end of the connection, for that of a subscription.
    pub(super) fn wake_later(&self, env: Env<'_>, out: &mut Vec<Out>) {
        let settings = env.settings;
        let ping = (!settings.ping_interval.is_zero()).then_some(self.next_ping);
        // While a backend is asked about an end, its answer is what wakes.
        let end = self.expires_at.filter(|_| !self.is_being_judged());
        let end = end.map(|at| env.over_at(at, env.connection_grace()));
        let judged = |it: &&Subscription| self.is_subscription_being_judged(&it.room);
        let subscriptions = self.subscriptions.iter().filter(|it| it.expires_at().is_some());
        let ends = subscriptions.filter(|it| !judged(it)).filter_map(|it| {
            let grace = env.subscription_grace(&it.room);
            Some(env.over_at(it.expires_at()?, grace))
        });
        out.extend(ping.into_iter().chain(end).chain(ends).min().map(Out::WakeAt));
    }

    /// The client has answered a ping.
    pub(super) fn pong(&mut self, env: Env<'_>, out: &mut Vec<Out>) {
        if !self.ping_unanswered {
            return self.close(Disconnect::BadRequest, out);
        }
        self.ping_unanswered = false;
        self.next_ping = env.now + env.settings.ping_interval;
        self.wake_later(env, out);
    }

    /// Time that was asked for has passed.
    pub(super) fn wake(&mut self, env: Env<'_>, out: &mut Vec<Out>) {
        if self.state != ConnectionState::Open {
            return self.close(Disconnect::Stale, out);
        }
        if self.expires_at.is_some_and(|at| env.is_over(at, env.connection_grace())) {
            match env.settings.proxies.refresh {
                Some(_) if self.is_being_judged() => {}
                Some(backend) => self.ask_about_connection(backend, out),
                None => return self.close(Disconnect::ConnectionExpired, out),
            }
        }
        self.end_expired(env, out);
        if self.state == ConnectionState::Closed {
            return;
        }
        if !env.settings.ping_interval.is_zero() && env.now >= self.next_ping {
            // As long as a client is still taking what came before a ping, it is neither dead nor able to
            // answer, and its pong may be among what is not read.
            if self.ping_unanswered && !env.congested {
                return self.close(Disconnect::NoPong, out);
            }
            self.ping(env, out);
        }
        self.wake_later(env, out);
    }

    /// Zero: no pong is expected.
    pub(super) fn pong_timeout(&self, env: Env<'_>) -> Duration {
        if self.one_way { Duration::ZERO } else { env.settings.pong_timeout }
    }

    fn ping(&mut self, env: Env<'_>, out: &mut Vec<Out>) {
        self.renew_stand_ins(out);
        if !self.ping_unanswered {
            out.push(Out::Reply(Reply::default()));
        }
        let pong_timeout = self.pong_timeout(env);
        self.ping_unanswered = !pong_timeout.is_zero();
        let wait = if self.ping_unanswered { pong_timeout } else { env.settings.ping_interval };
        self.next_ping = env.now + wait;
    }
}
