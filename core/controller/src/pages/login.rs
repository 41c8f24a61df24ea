//! How a browser comes in: with a code that `tw page` printed, good for one use.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::SET_COOKIE;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tw_api::{ErrorBody, PageReply, PageRequest};
use tw_model::Code;

use super::{Html, answer};
use crate::app::App;
use crate::pass::{COOKIE_NAME, PASS_LIFETIME};
use crate::reply::{Answer, Asked, Refusal, Reply, invalid};
use crate::status::SHAPE;

/// `POST /v1/page`
pub(crate) async fn address(
    State(app): State<Arc<App>>,
    Reply(request): Reply<PageRequest>,
) -> Answer<PageReply> {
    let failed = |cause: &dyn std::error::Error| {
        ErrorBody::new(
            Code::StoreUnavailable,
            format!("no browser can be let in: {cause}"),
        )
    };
    let address = app.door.address().await.map_err(|cause| failed(&cause))?;
    let code = app.passes.code().map_err(|cause| failed(&cause))?;
    let plan = match &request.plan {
        Some(digest) if is_digest(digest) => format!("&plan={digest}"),
        Some(digest) => return Err(invalid(&format!("'{digest}' is no digest")).into()),
        None => String::new(),
    };
    Ok(Reply(PageReply {
        version: SHAPE,
        url: format!("http://{address}/login?code={code}{plan}"),
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoginQuery {
    code: String,
    /// The plan to go to.
    plan: Option<String>,
}

/// `GET /login`. Answers with a page and no redirect: the next request then comes from this origin, as the cookie
/// demands.
pub(crate) async fn login(
    State(app): State<Arc<App>>,
    Asked(query): Asked<LoginQuery>,
) -> Result<Response, Refusal> {
    let pass = app.passes.exchange(&query.code).ok().flatten();
    let Some(pass) = pass else {
        let denied = ErrorBody::new(
            Code::AuthDenied,
            "this address was used already, or is too old",
        );
        return Err(Refusal(denied.with_hint("`tw page` prints another one")));
    };
    let next = match query.plan.filter(|digest| is_digest(digest)) {
        Some(digest) => format!("/plans/{digest}"),
        None => "/".to_owned(),
    };
    let mut html = Html(format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Twill</title>\n\
         <meta http-equiv=\"refresh\" content=\"0; url={next}\">\n<p>"
    ));
    html.raw(&format!("<a href=\"{next}\">Continue</a></p>\n"));
    let cookie = format!(
        "{COOKIE_NAME}={pass}; HttpOnly; SameSite=Strict; Path=/; Max-Age={}",
        PASS_LIFETIME.as_secs()
    );
    Ok(([(SET_COOKIE, cookie)], answer(html)).into_response())
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
