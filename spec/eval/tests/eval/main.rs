//! Evaluation from end to end: `tw-spec` with the real `tw-eval`.

mod attacks;
mod broken;
mod cache;
mod closure;
mod diff;
mod errors;
mod evaluate;
mod examples;
mod imports;
mod kept;
mod policy;
mod reference;
mod rewrites;
mod scenario;
mod seal;
mod support;
mod testing;
