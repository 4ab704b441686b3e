-- Holds the number for another branch's migration, which takes this file's place: files are numbered one by one.
SELECT 1;
