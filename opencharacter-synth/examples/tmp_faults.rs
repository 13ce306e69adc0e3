#![allow(warnings)]
use opencharacter_core::*; use opencharacter_synth::quality::*; use opencharacter_similarity::*; use std::collections::*; use serde_json::Value;
fn lines(p:&str)->Vec<Value>{ std::fs::read_to_string(p).unwrap().lines().filter_map(|l|serde_json::from_str(l).ok()).collect() }
fn main(){
 let d="/work/shared/data/";
 let mut sets: Vec<(String,Vec<(String,String,String)>)>=vec![];
 for f in ["rolebench/train_role_specific","rolebench/dev_general","rolebench/dev_role_specific"]{
  let rows=lines(&format!("{d}{f}.jsonl")).iter().flat_map(|r|{let q=r["question"].as_str().unwrap_or("").to_string();let n=r["role"].as_str().unwrap_or("").to_string(); r["generated"].as_array().unwrap().iter().map(|a|(n.clone(),q.clone(),a.as_str().unwrap().to_string())).collect::<Vec<_>>()}).collect();
  sets.push((f.into(),rows));}
 let g:Vec<Value>=serde_json::from_str(&std::fs::read_to_string(format!("{d}instructions/gpteacher_roleplay.json")).unwrap()).unwrap();
 sets.push(("gpteacher".into(),g.iter().map(|r|("".into(),format!("{} {}",r["instruction"].as_str().unwrap(),r["input"].as_str().unwrap()),r["output"].as_str().unwrap().to_string())).collect()));
 for f in ["self_instruct_seed_tasks","user_oriented_instructions"]{
  sets.push((f.into(),lines(&format!("{d}instructions/{f}.jsonl")).iter().flat_map(|r|r["instances"].as_array().unwrap().iter().map(|i|("".into(),format!("{} {}",r["instruction"].as_str().unwrap(),i["input"].as_str().unwrap()),i["output"].as_str().unwrap().to_string())).collect::<Vec<_>>()).collect()));}
 let show=std::env::args().nth(1).and_then(|n|n.parse::<usize>().ok()).unwrap_or(6);
 for (name,rows) in &sets{
  let mut counts:BTreeMap<AnswerRule,Vec<(String,String)>>=BTreeMap::new(); let mut langs:BTreeMap<String,usize>=BTreeMap::new();
  for (n,q,a) in rows{ let c=Character::from_name(n,"",""); let s=SystemPrompt::default().render(&c).unwrap();
   for f in AnswerRules::default().faults(&JudgedAnswer{character:&c,system:&s,question:q,answer:a}){counts.entry(f.rule).or_default().push((f.evidence,a.clone()));}
   let l=language_of(a); *langs.entry(l.map_or("none".into(),|l|if l.reliable{l.code.to_string()}else{"unreliable".into()})).or_default()+=1;
  }
  println!("== {name}: {} answers", rows.len());
  for (r,v) in counts{ println!("  {:?}: {} ({:.2}%)",r,v.len(),100.0*v.len() as f64/rows.len() as f64); for (e,a) in v.iter().step_by((v.len()/show).max(1)).take(show){ let a=a.replace('\n'," "); let k=e.trim_matches('`').split(' ').next().unwrap().to_string(); let low=a.to_lowercase(); let at=low.find(e.trim_matches('`')).unwrap_or(0); let b=a.char_indices().map(|x|x.0).filter(|&i|i<=at.saturating_sub(80)).last().unwrap_or(0); println!("      {e} | {}", a[b..].chars().take(220).collect::<String>()); } }
  println!("  languages {langs:?}");
 }
 // persona clusters
 let pg=lines(&format!("{d}personagym/dev_100.jsonl")); let p:Vec<String>=pg.iter().map(|r|r["persona"].as_str().unwrap().to_string()).collect();
 let hub:Vec<String>=lines(&format!("{d}personas/persona_hub_tools.jsonl")).iter().map(|r|r["persona"].as_str().unwrap().to_string()).collect();
 for (k,t) in [(3,0.8),(3,0.5),(2,0.5),(2,0.4),(2,0.3),(1,0.7),(1,0.6),(1,0.5),(1,0.4),(1,0.3)]{
  for (n,texts) in [("personagym",&p),("hub",&hub)]{
  let s=Similarity::new(k,t).unwrap(); let b=std::time::Instant::now(); let c=s.clusters(texts); let mut m:BTreeMap<usize,usize>=BTreeMap::new(); for x in &c{*m.entry(*x).or_default()+=1;} let mut sizes:Vec<usize>=m.values().copied().collect(); sizes.sort(); sizes.reverse();
  println!("{n} k={k} t={t}: {} texts {} clusters, in clusters>1: {}, largest {:?} {:?}", texts.len(), sizes.len(), sizes.iter().filter(|s|**s>1).sum::<usize>(), &sizes[..5.min(sizes.len())], b.elapsed()); }
 }
 if let Some(p)=std::env::args().nth(2){ let cs:Vec<Character>=lines(&p).into_iter().map(|v|serde_json::from_value(v).unwrap()).collect(); println!("{}",Diversity::of(&cs).to_text()); 
 println!("{:?}", duplicate_characters(&cs,CharacterText::Profile,Similarity::new(2,0.4).unwrap()).iter().take(5).map(|x|x.to_string()).collect::<Vec<_>>()); }
 let cs:Vec<Character>=hub.iter().map(|p|{let mut c=Character::from_name("","","");c.persona=p.clone();c}).collect(); println!("{}",Diversity::of(&cs).to_text());
}
