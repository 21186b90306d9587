-- A notification names the relay that it wakes, so that one of them carries a lone job, and not all.
grant select (id, stopped_at) on haulier.workers to haulier_client, haulier_operator, haulier_handler, haulier_producer;
