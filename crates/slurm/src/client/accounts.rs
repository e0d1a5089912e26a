//! Who may charge what, as the accounting database has it.

use serde::Deserialize;

use super::{Call, Client, Plugin, segment};
use crate::error::Error;
use crate::wire::or_default;

/// That a user may charge an account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Association {
    /// User.
    pub user: String,
    /// Account.
    pub account: String,
    /// Slurm's cluster: one database may serve several.
    pub cluster: String,
    /// Only there, where not empty.
    pub partition: String,
    /// Qualities of service that its jobs may have.
    pub qos: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireAssociations {
    #[serde(deserialize_with = "or_default")]
    associations: Vec<WireAssociation>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireAssociation {
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "or_default")]
    account: String,
    #[serde(deserialize_with = "or_default")]
    cluster: String,
    #[serde(deserialize_with = "or_default")]
    partition: String,
    #[serde(deserialize_with = "or_default")]
    qos: Vec<String>,
}

impl Client {
    /// The associations of one user (`GET /slurmdb/{v}/associations/?user=`); empty for one that the database does not
    /// know. Without a database it is [`Error::NoSuchEndpoint`] or [`Error::Rejected`].
    pub async fn associations(&self, user: &str) -> Result<Vec<Association>, Error> {
        let path = format!("associations/?user={}", segment(user));
        let call = Call { plugin: Plugin::Slurmdb, ..Call::get("slurmdb/associations", path) };
        let answer: WireAssociations = self.read(&call).await?;
        let own = answer.associations.into_iter().filter(|one| one.user == user);
        let association = |one: WireAssociation| Association {
            user: one.user,
            account: one.account,
            cluster: one.cluster,
            partition: one.partition,
            qos: one.qos,
        };
        Ok(own.map(association).collect())
    }
}
