-- An upstream service may ask, in a transaction of its own, that a webhook of the tenant's be called back. Which webhooks there are it may know;
-- where they are, and what else they hear, it may not.
grant insert on haulier.callbacks to haulier_producer;
grant select (id, tenant_id) on haulier.webhooks to haulier_producer;
create policy granted_tenants on haulier.callbacks to haulier_producer using (tenant_id in (select haulier.granted_tenants()));
create policy granted_tenants on haulier.webhooks to haulier_producer using (tenant_id in (select haulier.granted_tenants()));
