//! SHELL. The methods of the server API that do something to the connections of a user, on whichever nodes
//! they are.

use super::{
    calls::{Disconnection, Refresh, Room, Subscribe, Target},
    execution::{check_channel, survey},
    parts::Parts,
    results::{Called, Controlled, Done, names},
};
use crate::{
    protocol::codes::ErrorCode,
    room::{control::Action, types::Survey},
};

async fn everywhere(parts: &Parts, target: Target, action: Action) -> Called {
    let findings = survey(parts, Survey::Control(target.control(action)?)).await?;
    Ok(Done::Controlled(Controlled { missing: names(&findings.missing) }))
}

pub(super) async fn subscribe(parts: &Parts, target: Target, call: Subscribe) -> Called {
    check_channel(parts, &call.channel)?;
    if parts.sessions.load().namespaces.options(&call.channel).is_none() {
        return Err(ErrorCode::UnknownChannel.into());
    }
    everywhere(parts, target, call.action()?).await
}

pub(super) async fn unsubscribe(parts: &Parts, target: Target, call: Room) -> Called {
    check_channel(parts, &call.channel)?;
    everywhere(parts, target, Action::Unsubscribe { room: call.channel }).await
}

pub(super) async fn disconnect(parts: &Parts, target: Target, call: Disconnection) -> Called {
    everywhere(parts, target, call.action()?).await
}

pub(super) async fn refresh(parts: &Parts, target: Target, call: Refresh) -> Called {
    everywhere(parts, target, call.action()).await
}
