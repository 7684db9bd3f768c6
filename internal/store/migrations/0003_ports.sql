-- The VM's loopback address on the host, and the ports that are published, as
-- JSON.
ALTER TABLE vms ADD COLUMN address TEXT NOT NULL DEFAULT '';
ALTER TABLE vms ADD COLUMN publish TEXT NOT NULL DEFAULT '[]';
