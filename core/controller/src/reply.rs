//! How requests are read, and how answers and refusals are written.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tw_api::ErrorBody;
use tw_model::{Code, JobId, Name};

/// A refusal; every error that leaves the controller is one.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) ErrorBody);

/// What a handler gives back.
pub(crate) type Answer<T> = Result<Reply<T>, Refusal>;

/// JSON, in and out. A body that cannot be read is refused with its place.
#[derive(Debug)]
pub(crate) struct Reply<T>(pub(crate) T);

/// The query of an address.
pub(crate) struct Asked<T>(pub(crate) T);

impl From<ErrorBody> for Refusal {
    fn from(body: ErrorBody) -> Refusal {
        Refusal(body)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status()).unwrap_or(StatusCode::BAD_REQUEST);
        tracing::debug!(code = %self.0.code, message = %self.0.message, "refused");
        let mut response = (status, axum::Json(&self.0)).into_response();
        // For a browser it is written otherwise.
        response.extensions_mut().insert(self.0);
        response
    }
}

impl<T: Serialize> IntoResponse for Reply<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Reply<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Reply<T>, Refusal> {
        let limit = request.extensions().get::<BodyLimit>().copied();
        let bytes = axum::body::Bytes::from_request(request, state)
            .await
            .map_err(|cause| too_large(limit, &cause.body_text()))?;
        match axum::Json::from_bytes(&bytes) {
            Ok(axum::Json(value)) => Ok(Reply(value)),
            Err(rejection) => Err(Refusal(invalid(&describe(&rejection)))),
        }
    }
}

/// The most that a JSON body may have.
#[derive(Clone, Copy)]
pub(crate) struct BodyLimit(pub(crate) usize);

fn too_large(limit: Option<BodyLimit>, found: &str) -> Refusal {
    let most = limit.map_or_else(String::new, |limit| {
        format!("; {} is the most", tw_model::Bytes(limit.0 as u64))
    });
    Refusal(invalid(&format!("the body cannot be taken: {found}{most}")))
}

fn describe(rejection: &JsonRejection) -> String {
    use std::error::Error;
    match rejection.source() {
        Some(cause) => format!("the body is not what this address takes: {cause}"),
        None => rejection.body_text(),
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Asked<T>, Refusal> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Asked(value)),
            Err(rejection) => Err(Refusal(invalid(&QueryRejection::body_text(&rejection)))),
        }
    }
}

pub(crate) fn invalid(message: &str) -> ErrorBody {
    ErrorBody::new(Code::RequestInvalid, message)
}

/// Reads a name out of an address.
pub(crate) fn name(text: &str) -> Result<Name, Refusal> {
    text.parse()
        .map_err(|cause: tw_model::IdError| Refusal(invalid(&cause.to_string())))
}

/// Reads a job out of an address.
pub(crate) fn job_id((namespace, job): &(String, String)) -> Result<JobId, Refusal> {
    Ok(JobId::new(name(namespace)?, name(job)?))
}

pub(crate) fn job_not_found(job: &JobId) -> ErrorBody {
    ErrorBody::new(Code::JobNotFound, format!("there is no job {job}"))
        .with_hint("`tw status` lists all jobs")
}

/// The answer where nothing is.
pub(crate) async fn not_found(uri: Uri) -> Refusal {
    Refusal(ErrorBody::new(
        Code::RequestNotFound,
        format!("nothing has the address {}", uri.path()),
    ))
}

/// The answer to a known address with the wrong method.
pub(crate) async fn wrong_method(method: Method, uri: Uri) -> Response {
    let body = invalid(&format!("{} cannot be asked with {method}", uri.path()));
    (StatusCode::METHOD_NOT_ALLOWED, axum::Json(body)).into_response()
}
