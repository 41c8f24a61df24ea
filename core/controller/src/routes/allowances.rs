//! What teams may ask for.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use tw_api::{AllowanceRequest, AllowancesReply};
use tw_model::AllowanceBand;
use tw_scheduler::AllowanceOrder;

use crate::app::App;
use crate::caller::Caller;
use crate::reply::{Answer, Reply};
use crate::status::SHAPE;

pub(super) async fn list(State(app): State<Arc<App>>) -> Answer<AllowancesReply> {
    Ok(Reply(AllowancesReply {
        version: SHAPE,
        allowances: app.driver.allowances().await?,
    }))
}

/// Sets or removes one, and says how all are used then.
pub(super) async fn order(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Reply(request): Reply<AllowanceRequest>,
) -> Answer<AllowancesReply> {
    let (name, order) = match request {
        AllowanceRequest::Set {
            name,
            from_priority,
            cpu,
            memory,
        } => {
            let band = AllowanceBand {
                from_priority,
                cpu,
                memory,
            };
            (name, AllowanceOrder::Set(band))
        }
        AllowanceRequest::Remove { name } => (name, AllowanceOrder::Remove),
    };
    let by = caller.to_string();
    app.driver.allowance(name, order, by).await?;
    list(State(app)).await
}
