//! Nomad.

use crate::compose::Read;
use crate::error::ImportError;
use crate::fields::Item;
use crate::note::Notes;

pub(crate) fn read(_documents: &[Item], _notes: &mut Notes) -> Result<Read, ImportError> {
    Ok(Read { drafts: Vec::new(), addresses: Default::default(), variables: Default::default() })
}
