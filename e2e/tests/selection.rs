//! Which Secrets a wish selects, under which names, and what becomes of a name that several want.
//! Who owns what the vault holds is left to `ownership`.

use keyvault_sync_e2e::Scene;

keyvault_sync_e2e::promises!(Together: the_stage_stands);

async fn the_stage_stands(scene: Scene) -> anyhow::Result<()> {
    scene.make_namespace("stands").await
}
