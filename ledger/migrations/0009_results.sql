-- Upkeep takes results away whose command keeps them for a time of its own, from the archive too.
grant update (result) on haulier.archive to haulier_upkeep;
