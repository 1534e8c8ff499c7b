//! Where runs get their workspaces from, as traits: a simulation has its own, without disk, git and
//! commands.

use async_trait::async_trait;
use secrecy::SecretString;
use steadfast_core::chat::ToolCall;
use steadfast_core::failure::Failure;
use tokio_util::sync::CancellationToken;

use super::{OpenSpec, Published, ToolOutcome, Workspace, Workspaces};
use crate::git::Identity;

/// Opens workspaces: [`Workspaces`], or a simulation's.
#[async_trait]
pub trait Workshop: Send + Sync {
    /// See [`Workspaces::open`].
    async fn open(&self, spec: OpenSpec, token: Option<SecretString>) -> Result<Box<dyn Checkout>, Failure>;
}

/// An open workspace: [`Workspace`], or a simulation's.
#[async_trait]
pub trait Checkout: Send + Sync {
    /// See [`Workspace::base_commit`].
    fn base_commit(&self) -> &str;
    /// See [`Workspace::conventions`].
    async fn conventions(&self) -> Option<String>;
    /// See [`Workspace::recall`].
    async fn recall(&self, calls: &[ToolCall]);
    /// See [`Workspace::run`].
    async fn run(&mut self, call: &ToolCall, cancel: CancellationToken) -> ToolOutcome;
    /// See [`Workspace::patch`].
    async fn patch(&self) -> Result<Vec<u8>, Failure>;
    /// See [`Workspace::publish`].
    async fn publish(
        &self,
        branch: &str,
        message: &str,
        identity: &Identity,
        token: Option<SecretString>,
    ) -> Result<Published, Failure>;
    /// See [`Workspace::remove`].
    async fn remove(self: Box<Self>);
}

#[async_trait]
impl Workshop for Workspaces {
    async fn open(&self, spec: OpenSpec, token: Option<SecretString>) -> Result<Box<dyn Checkout>, Failure> {
        Ok(Box::new(Workspaces::open(self, spec, token).await?))
    }
}

#[async_trait]
impl Checkout for Workspace {
    fn base_commit(&self) -> &str {
        Workspace::base_commit(self)
    }

    async fn conventions(&self) -> Option<String> {
        Workspace::conventions(self).await
    }

    async fn recall(&self, calls: &[ToolCall]) {
        Workspace::recall(self, calls).await;
    }

    async fn run(&mut self, call: &ToolCall, cancel: CancellationToken) -> ToolOutcome {
        Workspace::run(self, call, cancel).await
    }

    async fn patch(&self) -> Result<Vec<u8>, Failure> {
        Workspace::patch(self).await
    }

    async fn publish(
        &self,
        branch: &str,
        message: &str,
        identity: &Identity,
        token: Option<SecretString>,
    ) -> Result<Published, Failure> {
        Workspace::publish(self, branch, message, identity, token).await
    }

    async fn remove(self: Box<Self>) {
        Workspace::remove(*self).await;
    }
}
