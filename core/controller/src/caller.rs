//! Who calls, and whether it may.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tw_api::ErrorBody;
use tw_model::Code;

use crate::app::App;
use crate::reply::Refusal;
use crate::{pages, pass};

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A process of this machine, known by the system.
    Unix { uid: u32 },
    /// Someone who has to show the token.
    Tcp,
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Caller::Unix { uid: 0 } => f.write_str("root"),
            Caller::Unix { uid } => write!(f, "uid {uid}"),
            Caller::Tcp => f.write_str("token"),
        }
    }
}

/// Lets a request pass if its caller may do everything; there are no lesser rights yet.
pub(crate) async fn authorize(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let caller = request.extensions().get::<Caller>().copied();
    let allowed = match caller {
        None => Err(denied("the caller is unknown")),
        Some(Caller::Unix { uid }) => check_uid(uid, rustix::process::geteuid().as_raw()),
        Some(Caller::Tcp) if may_be_browser(&request) => {
            return Ok(to_browser(&app, request, next).await);
        }
        Some(Caller::Tcp) => check_token(&app, &request),
    };
    allowed.map_err(Refusal)?;
    Ok(next.run(request).await)
}

/// What a browser gets, which shows a refusal as a page to whoever sits before it.
async fn to_browser(app: &App, request: Request, next: Next) -> Response {
    let mut response = match check_browser(app, &request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => Refusal(refusal).into_response(),
    };
    match response.extensions_mut().remove::<ErrorBody>() {
        Some(refusal) => (response.status(), pages::refusal(&refusal)).into_response(),
        None => response,
    }
}

fn check_uid(uid: u32, own: u32) -> Result<(), ErrorBody> {
    match uid == 0 || uid == own {
        true => Ok(()),
        false => Err(denied(&format!("user {uid} may not call this controller"))
            .with_hint(format!("call as root or as user {own}"))),
    }
}

/// Whether a browser may send this: it asks for a page, and shows no token.
fn may_be_browser(request: &Request) -> bool {
    let path = request.uri().path();
    let is_page =
        matches!(path, "/" | "/plans" | "/style.css" | "/login") || path.starts_with("/plans/");
    let looks = matches!(*request.method(), Method::GET | Method::HEAD);
    is_page && looks && !request.headers().contains_key(AUTHORIZATION)
}

fn check_browser(app: &App, request: &Request) -> Result<(), ErrorBody> {
    let headers = request.headers();
    if let Some(why) = pass::foreign(headers) {
        return Err(denied(why));
    }
    // A code is the right to come in.
    match request.uri().path() == "/login" || app.passes.admits(headers) {
        true => Ok(()),
        false => Err(denied("this browser may not look at the pages")
            .with_hint("`tw page` prints an address that lets it in")),
    }
}

fn check_token(app: &App, request: &Request) -> Result<(), ErrorBody> {
    let shown = request.headers().get(AUTHORIZATION);
    let token = shown
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let hint = "send `Authorization: Bearer TOKEN` with the content of controller.token in the controller's state folder";
    match token {
        None => Err(denied("callers over TCP show a token, and there was none").with_hint(hint)),
        Some(token) if app.token.matches(token.trim()) => Ok(()),
        Some(_) => Err(denied("the token is not this controller's").with_hint(hint)),
    }
}

fn denied(message: &str) -> ErrorBody {
    ErrorBody::new(Code::AuthDenied, message)
}

#[cfg(test)]
mod tests {
    use super::check_uid;

    #[test]
    fn only_root_and_the_controllers_own_user_may_call() {
        assert!(check_uid(0, 1000).is_ok());
        assert!(check_uid(1000, 1000).is_ok());
        let refused = check_uid(1001, 1000).unwrap_err();
        assert_eq!(refused.status(), 403);
        assert!(refused.message.contains("1001"), "{refused}");
    }
}
