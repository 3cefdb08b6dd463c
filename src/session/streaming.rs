//! Subscribers for whom a backend has a stream: what it brings goes to this client alone, beside what is published in the room.
//!
//! In: what comes of the stream. Out: publications, the end of the subscription, and what the client publishes.

use bytes::Bytes;

use super::{
    commands::Refusal,
    reply,
    settings::Env,
    state::{CallFailed, Called, Out, Session},
    subscription::{Stream, Subscription},
};
use crate::{
    backend::{
        response::BackendResponse,
        stream::{FromStream, StreamPublication, ToStream},
    },
    protocol::{
        codes::{ErrorCode, Unsubscribed},
        message::{self, Empty, PublishRequest, PushBody, ReplyBody, SubscribeRequest},
    },
    room::types::RoomName,
};

impl Session {
    /// A backend has decided about a subscription that is to have a stream, or has not.
    pub(super) fn stream_opened(
        &mut self,
        id: u32,
        request: SubscribeRequest,
        stream: Stream,
        result: Result<Called, CallFailed>,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) {
        let room = request.channel.clone();
        let asked = match result {
            Ok(Called::Backend(BackendResponse::Subscribe(grant))) => {
                self.subscribe_granted(id, request, &grant, env, out)
            }
            Ok(Called::Backend(BackendResponse::Refused(verdict))) => Err(verdict.into()),
            Ok(_) | Err(CallFailed) => Err(Refusal::from(ErrorCode::Internal)),
        };
        match self.subscription(&room).filter(|_| asked.is_ok()) {
            Some(it) => it.more.get_or_insert_default().stream = Some(stream),
            None => out.push(Out::Stream(stream.number, ToStream::End)),
        }
        self.outcome(id, asked, out);
    }

    /// The stream for the subscription at this place is not needed any more, if there is one.
    pub(super) fn end_stream(&self, index: usize, out: &mut Vec<Out>) {
        let stream = self.subscriptions.get(index).and_then(Subscription::stream);
        out.extend(stream.map(|it| Out::Stream(it.number, ToStream::End)));
    }

    /// A stream brings something.
    pub(super) fn streamed(&mut self, number: u32, it: FromStream, out: &mut Vec<Out>) {
        let is_it =
            |it: &&Subscription| it.is_live() && it.stream().is_some_and(|it| it.number == number);
        let room = self.subscriptions.iter().find(is_it).map(|it| it.room.clone());
        // What it has sent before it heard of the end.
        let Some(room) = room else { return };
        match it {
            FromStream::Publication(StreamPublication { data, tags }) => {
                let publication = message::Publication { data, tags, ..Default::default() };
                out.push(Out::Reply(reply::push(&room, PushBody::Pub(publication))));
            }
            FromStream::Ended => self.end_streamed(&room, Unsubscribed::Server, out),
            // It has missed something, and subscribes again.
            FromStream::Broken => self.end_streamed(&room, Unsubscribed::InsufficientState, out),
        }
    }

    fn end_streamed(&mut self, room: &RoomName, why: Unsubscribed, out: &mut Vec<Out>) {
        if let Some(subscription) = self.remove(room, out) {
            self.end_subscription(subscription, why, out);
        }
    }

    /// Gives what the client publishes to the stream that it has in both directions, if it has one. Returns whether it has.
    pub(super) fn publish_to_stream(
        &mut self,
        id: u32,
        request: &PublishRequest,
        out: &mut Vec<Out>,
    ) -> bool {
        let live = self.subscription(&request.channel).filter(|it| it.is_live());
        let Some(stream) = live.and_then(|it| it.stream()).filter(|it| it.both_ways) else {
            return false;
        };
        // Protobuf lends the buffer of the whole message.
        let data = Bytes::copy_from_slice(&request.data);
        out.push(Out::Stream(stream.number, ToStream::Publish(data)));
        out.push(Out::Reply(reply::result(id, ReplyBody::Publish(Empty {}))));
        true
    }
}
