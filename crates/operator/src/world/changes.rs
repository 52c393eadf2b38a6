//! Who is woken by which change: one ear for each kind's watch, and the index kept up with claims.
//! What is known of the cluster is `world`; what the woken do, left to the controllers.

use super::*;

impl World {
    pub(super) fn on_sync(&self, change: &Change<KeyVaultSync>) {
        self.on_wisher(change, Wisher::Namespaced);
    }

    pub(super) fn on_cluster_sync(&self, change: &Change<ClusterKeyVaultSync>) {
        self.on_wisher(change, Wisher::Cluster);
    }

    pub(super) fn on_wisher<K>(&self, change: &Change<K>, of: fn(Arc<K>) -> Wisher) {
        match change {
            Change::Applied { before, now } => {
                let now = of(Arc::clone(now));
                let key = now.key();
                self.index().wishers.entry(key.namespace.clone()).or_default().insert(key.clone());
                if before.is_none() && self.is_filled() {
                    // Claims that the watches showed before their owner.
                    for claim in self.claims_of(&key) {
                        self.wake.claim(ObjectRef::from_obj(claim.as_ref()));
                    }
                }
                if before.as_ref().is_none_or(|before| is_other_wish(&of(Arc::clone(before)), &now)) {
                    if self.is_of_a_part() {
                        // It may be the first that uses its KeyVault here, and was perhaps the last that used another.
                        self.wake.vault(ObjectRef::new(&now.push().vault_ref.name));
                        if let Some(before) = before {
                            self.wake.vault(ObjectRef::new(&of(Arc::clone(before)).push().vault_ref.name));
                        }
                    }
                    self.wake.sync(key);
                }
            }
            Change::Gone(gone) => {
                let gone = of(Arc::clone(gone));
                let key = gone.key();
                if self.is_of_a_part() {
                    self.wake.vault(ObjectRef::new(&gone.push().vault_ref.name));
                }
                self.planned.forget(gone.uid());
                self.note_wants(&key, HashSet::new());
                {
                    let mut index = self.index();
                    index.wants.remove(&key);
                    remove(&mut index.wishers, &key.namespace, &key);
                    if index.by_owner.contains_key(&key) {
                        // An edit just before the end may not have reached its claims.
                        index.last_words.insert(gone.uid().to_owned(), gone.push().clone());
                    }
                }
                for claim in self.claims_of(&key) {
                    self.wake.orphan(ObjectRef::from_obj(claim.as_ref()));
                }
            }
        }
    }

    pub(super) fn on_vault(&self, change: &Change<KeyVault>) {
        let vault = match change {
            Change::Applied { before: Some(before), now } if !is_other_vault(before, now) => return,
            Change::Applied { now, .. } => now,
            Change::Gone(vault) => vault,
        };
        self.wake_users(vault);
    }

    /// Wakes a KeyVault and whoever uses it.
    pub(crate) fn wake_users(&self, vault: &KeyVault) {
        let name = vault.name_any();
        self.wake.vault(ObjectRef::from_obj(vault));
        for wisher in self.wishers().filter(|wisher| wisher.push().vault_ref.name == name) {
            self.wake.sync(wisher.key());
        }
        for claim in self.claims.state().iter().filter(|claim| claim.spec.key_vault == name) {
            self.wake.claim(ObjectRef::from_obj(claim.as_ref()));
        }
    }

    pub(super) fn on_claim(&self, change: &Change<KeyVaultCertificate>) {
        match change {
            Change::Applied { before, now } => {
                self.enter(before.as_deref(), Some(now));
                let reference = ObjectRef::from_obj(now.as_ref());
                if before.as_ref().is_none_or(|before| {
                    before.metadata.generation != now.metadata.generation
                        || before.uid() != now.uid()
                        || installation_of(before) != installation_of(now)
                }) {
                    self.wake.claim(reference.clone());
                }
                if before.as_ref().is_none_or(|before| {
                    before.status != now.status
                        || before.spec.owner != now.spec.owner
                        || installation_of(before) != installation_of(now)
                }) {
                    self.wake.sync(WisherKey::of(now));
                }
                if let Some(before) = before.as_ref().filter(|before| before.spec.owner != now.spec.owner) {
                    // Whose it was may want it still, where it was not handed over.
                    self.wake.sync(WisherKey::of(before));
                    // Who waits for the name is told who has it now.
                    for loser in self.losers_of(&now.name_any()) {
                        self.wake.sync(loser.key());
                    }
                }
                if self.serves(&WisherKey::of(now)) && !self.has_owner(now) {
                    self.wake.orphan(reference);
                }
            }
            Change::Gone(claim) => {
                self.enter(Some(claim), None);
                if !self.index().by_owner.contains_key(&WisherKey::of(claim)) {
                    self.index().last_words.remove(&claim.spec.owner.uid);
                }
                self.written.forget(&claim.name_any());
                self.rounds.forget(&claim.uid().unwrap_or_default());
                self.taken.forget(&claim.uid().unwrap_or_default());
                self.wake.sync(WisherKey::of(claim));
                for loser in self.index().losers.remove(&claim.name_any()).into_iter().flatten() {
                    self.wake.sync(loser);
                }
            }
        }
    }

    /// Brings the index up to date with a claim.
    pub(super) fn enter(&self, before: Option<&KeyVaultCertificate>, now: Option<&KeyVaultCertificate>) {
        let mut index = self.index();
        if let Some(claim) = before {
            let name = claim.name_any();
            sources(claim).for_each(|source| remove(&mut index.by_source, &source, &name));
            remove(&mut index.by_owner, &WisherKey::of(claim), &name);
        }
        if let Some(claim) = now {
            let name = claim.name_any();
            for source in sources(claim) {
                index.by_source.entry(source).or_default().insert(name.clone());
            }
            index.by_owner.entry(WisherKey::of(claim)).or_default().insert(name);
        }
    }

    pub(super) fn on_namespace(&self, change: &Change<NamespaceMeta>) {
        let namespace = match change {
            Change::Applied { before: Some(before), now } if !is_other_namespace(before, now) => return,
            Change::Applied { now, .. } => now,
            Change::Gone(namespace) => namespace,
        };
        if !self.is_filled() {
            return;
        }
        let name = namespace.name_any();
        for wisher in self.wishers_over(&name) {
            self.wake.sync(wisher.key());
        }
        let concerns = |claim: &KeyVaultCertificate| {
            crate::owner::namespace(claim) == name
                || claim.spec.sources.iter().any(|source| source.namespace == name)
        };
        for claim in self.claims.state().iter().filter(|claim| concerns(claim)) {
            self.wake.claim(ObjectRef::from_obj(claim.as_ref()));
        }
    }

    /// Claims of its namespace may be waiting for it, or are pushed as another from now on.
    pub(super) fn on_account(&self, change: &Change<AccountMeta>) {
        let account = match change {
            Change::Applied { before: Some(before), now } if !is_other_account(before, now) => return,
            Change::Applied { now, .. } => now,
            Change::Gone(account) => account,
        };
        if !self.is_filled() {
            return;
        }
        let (namespace, name) = (account.namespace().unwrap_or_default(), account.name_any());
        let opens = |vault: &Arc<KeyVault>| {
            let identity = vault.spec.identity.as_ref();
            identity.and_then(|identity| identity.service_account.as_ref()).is_some_and(|it| it.name == name)
        };
        let opened: HashSet<String> =
            self.vaults.state().iter().filter(|vault| opens(vault)).map(|vault| vault.name_any()).collect();
        if opened.is_empty() {
            return;
        }
        let concerns = |claim: &&Arc<KeyVaultCertificate>| {
            crate::owner::namespace(claim) == namespace && opened.contains(&claim.spec.key_vault)
        };
        for claim in self.claims.state().iter().filter(concerns) {
            self.wake.claim(ObjectRef::from_obj(claim.as_ref()));
        }
    }

    pub(super) fn on_tls_secret(&self, change: &Change<SecretMeta>) {
        let (secret, is_there) = match change {
            Change::Applied { now, .. } => (now, true),
            Change::Gone(secret) => (secret, false),
        };
        let (namespace, name) = (secret.namespace().unwrap_or_default(), secret.name_any());
        if is_there {
            self.index().tls.entry(namespace).or_default().insert(name);
        } else {
            remove(&mut self.index().tls, &namespace, &name);
        }
        self.on_secret(change, true);
    }

    pub(super) fn on_other_secret(&self, change: &Change<SecretMeta>) {
        self.on_secret(change, false);
    }

    pub(super) fn on_secret(&self, change: &Change<SecretMeta>, is_tls: bool) {
        let (secret, is_other) = match change {
            Change::Applied { before: Some(before), now }
                if before.resource_version() == now.resource_version() =>
            {
                return;
            }
            Change::Applied { before, now } => {
                (now, before.as_ref().is_none_or(|before| is_other_secret(before, now)))
            }
            Change::Gone(secret) => (secret, true),
        };
        if !self.is_filled() {
            return;
        }
        let source = (secret.namespace().unwrap_or_default(), secret.name_any());
        if source.0 == self.own_namespace {
            let names = |vault: &&Arc<KeyVault>| identity::secrets(vault).any(|name| name == source.1);
            self.vaults.state().iter().filter(names).for_each(|vault| self.wake_users(vault));
        }
        let claims: Vec<String> =
            self.index().by_source.get(&source).into_iter().flatten().cloned().collect();
        for claim in &claims {
            // Who stands by pushes nothing: for it a change begins when it leads.
            if self.wake.is_roused()
                && let Some(uid) = self.claim(claim).and_then(|claim| claim.uid())
            {
                self.rounds.changed(&uid);
            }
            self.wake.claim(ObjectRef::new(claim));
        }
        // A mere renewal changes no row of any wish.
        if !is_other {
            return;
        }
        let holders = claims.iter().filter_map(|claim| self.claim(claim)).map(|claim| WisherKey::of(&claim));
        let touched = self.wishers_over(&source.0).into_iter();
        let touched = touched.filter(|wisher| wisher.is_touched_by(&source.0, &source.1, is_tls));
        let keys: HashSet<WisherKey> = holders.chain(touched.map(|wisher| wisher.key())).collect();
        keys.into_iter().for_each(|key| self.wake.sync(key));
    }
}

fn is_other_wish(before: &Wisher, now: &Wisher) -> bool {
    before.generation() != now.generation()
        || before.uid() != now.uid()
        || before.sync_at() != now.sync_at()
        || before.labels() != now.labels()
}

fn is_other_vault(before: &KeyVault, now: &KeyVault) -> bool {
    before.metadata.generation != now.metadata.generation
        || before.uid() != now.uid()
        || sync_at(before) != sync_at(now)
}

fn is_other_namespace(before: &NamespaceMeta, now: &NamespaceMeta) -> bool {
    before.labels() != now.labels()
        || before.uid() != now.uid()
        || before.metadata.deletion_timestamp.is_some() != now.metadata.deletion_timestamp.is_some()
}

/// Whether rows of a wish can change with it: everything that selectors and templates look at.
fn is_other_secret(before: &SecretMeta, now: &SecretMeta) -> bool {
    before.uid() != now.uid() || before.labels() != now.labels() || before.annotations() != now.annotations()
}

fn is_other_account(before: &AccountMeta, now: &AccountMeta) -> bool {
    before.uid() != now.uid() || before.annotations() != now.annotations()
}
